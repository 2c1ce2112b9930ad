"""Thermal on the RGB pixel grid, with one resampling, and which of those pixels are real.

Everywhere in this module pixel centres are at integer coordinates (OpenCV, ROS): an image of W columns spans
x from -0.5 to W - 0.5. A size is (width, height), an array is (H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import cv2
import numpy as np

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.checks import check_calibration, numbers
from fusionproxy_ros.geometry.lens import MIN_DEPTH_M, Size, project, rays, scaled

FEATHER_PX = 24  # a thermal view that ends at a visible line draws the eye, and detectors, to it
BAND_PX = 64  # rows of a lookup grid that are worked out at once; a multiple of NODE_PX
NODE_PX = 4  # between pixels whose place in the thermal image is worked out; the others follow from them
MAX_GRIDS = 4  # sizes seldom change in mid-stream; 640x480 costs 3.3 MB a grid
MAX_SIDE_PX = 32_766  # of the images that cv2.remap takes


@dataclass(frozen=True, eq=False)
class Grid:
    """Where each RGB pixel samples the thermal image; read-only, shared between frames.

    map_xy: (H, W, 2) int16 and map_fraction: (H, W) uint16, OpenCV's fixed-point maps (CV_16SC2, 1/32 px).
    mask, weight, valid_fraction: as in `Registered`.
    """

    map_xy: np.ndarray
    map_fraction: np.ndarray
    mask: np.ndarray | None
    weight: np.ndarray | None
    valid_fraction: float


@dataclass(frozen=True, eq=False)
class Registered:
    """A thermal image and where it lies on the RGB grid.

    source: (h, w), the thermal image. grid: where RGB's pixels lie on it; None where it is on the RGB grid already.
    mask: (H, W) bool, True where a real thermal pixel lies; None when every pixel is covered.
    weight: (H, W) float32 in 0..1, positive exactly where `mask` is True, rising to 1 over FEATHER_PX
        inwards; neither the frame of the RGB image itself nor occlusions are feathered. None when every pixel
        is covered.
    valid_fraction: share of True in `mask`, 0..1.
    mask and weight are shared between frames and read-only.
    """

    source: np.ndarray
    grid: Grid | None = None
    mask: np.ndarray | None = None
    weight: np.ndarray | None = None
    valid_fraction: float = 1.0

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W), dtype of the source: resampled when it is first asked for, which is the time that registering takes.

        Where no thermal pixel exists it repeats the nearest edge pixel, so that no edge appears which the scene does
        not have. uint16 is interpolated in float and rounded to whole counts.
        """
        return self.sample(1)

    def sample(self, step: int) -> np.ndarray:
        """Every step-th row and column of `pixels`."""
        if self.grid is None:
            return self.source if step == 1 else self.source[::step, ::step]
        map_xy, map_fraction = self.grid.map_xy[::step, ::step], self.grid.map_fraction[::step, ::step]
        return cv2.remap(self.source, map_xy, map_fraction, cv2.INTER_LINEAR)


class Registration:
    """Moves thermal images onto the RGB grid; make one with `identity`, `homography`, `extrinsic` or `by_depth`.

    sampler(u, v, thermal_size_px, rgb_size_px) -> x, y, valid: thermal coordinates of the RGB pixels (u, v), all
    (H, W) float64, and (H, W) bool. It may raise RegistrationError.
    shift_px: (dx, dy); RGB pixel (u, v) is answered as the sampler would answer (u + dx, v + dy). A residual
    misalignment of the thermal picture by (dx, dy), in RGB pixels, is thereby removed.
    """

    def __init__(self, sampler: Callable, shift_px: tuple[float, float] = (0.0, 0.0)):
        self.shift_px = shift_px
        self._sampler = sampler
        # Of functions that do not know this object: a cycle would keep replaced grids until Python looks for cycles.
        self.grid = lru_cache(maxsize=MAX_GRIDS)(partial(_build_grid, sampler, shift_px))

    def shifted(self, shift_px: tuple[float, float]) -> "Registration":
        """The same registration with another shift; nothing is shared with this one."""
        return Registration(self._sampler, shift_px)

    def prepare(self, thermal_size_px: Size, rgb_size_px: Size) -> None:
        """Build now what `register` needs for images of these sizes, and remember it. Raises RegistrationError."""
        self.grid(thermal_size_px, rgb_size_px)

    def register(
        self, thermal_pixels: np.ndarray, rgb_size_px: Size, depth_m: np.ndarray | None = None
    ) -> Registered:
        """One thermal image on the RGB grid, to be resampled bilinearly.

        thermal_pixels: (h, w) uint8, uint16 or float32. NaN spreads to the pixels interpolated from it.
        rgb_size_px: (width, height) of the RGB image.
        depth_m: of the RGB pixels; only registration by depth looks at it.

        Fixed-point maps place a sample to 1/64 px. cv2.remap rounds float maps to the same 1/32 px steps
        (measured on OpenCV 4.14: identical output in all three dtypes), so one map serves all.
        Raises RegistrationError for another shape or dtype, or for sizes that the calibration does not allow.
        """
        grid = self.grid(thermal_size_of(thermal_pixels), rgb_size_px)
        if grid is None:
            return Registered(thermal_pixels)
        return Registered(thermal_pixels, grid, grid.mask, grid.weight, grid.valid_fraction)


def identity() -> Registration:
    """Both cameras see the same field of view; only the number of pixels may differ.

    Convention:
        frame: image planes only; the outer edges of both images coincide.
        pixels: centres at integers, hence x_thermal = (x_rgb + 0.5) * W_thermal / W_rgb - 0.5, likewise y.
        direction: RGB pixel -> thermal pixel. Images of equal size pass through untouched, without a copy.
    """
    return Registration(_identity_sampler)


def homography(h: np.ndarray) -> Registration:
    """A fixed plane-to-plane mapping between the images.

    h: (3, 3), any scale but zero.

    Convention:
        frame: image planes, at the sizes the homography was estimated for.
        pixels: centres at integers.
        direction: h maps thermal (x, y, 1) to RGB; the grid applies its inverse to RGB pixels.
    Raises RegistrationError when h is not a finite, regular (3, 3) matrix.
    """
    h = numbers(h, (3, 3), "homography")
    singular_values = np.linalg.svd(h, compute_uv=False)
    if singular_values[2] <= 1e-10 * singular_values[0]:
        raise RegistrationError(
            "homography is singular (it maps the image to a line or a point): estimate it again from at "
            "least four thermal-RGB point pairs, no three on a line"
        )
    inverse = np.linalg.inv(h)

    def sampler(u: np.ndarray, v: np.ndarray, thermal_size_px: Size, rgb_size_px: Size):
        x, y, w = np.einsum("ij,jhw->ihw", inverse, np.stack([u, v, np.ones_like(u)]))
        # Where the horizon of h crosses the thermal image (a ground plane's does), what lies past it is the sky
        # and would come out mirrored: keep the side that the middle of the thermal image lies on.
        centre = np.array([(thermal_size_px[0] - 1) / 2, (thermal_size_px[1] - 1) / 2, 1.0])
        side = np.copysign(1.0, h[2] @ centre)
        valid = w * side > 0
        w = np.where(valid, w, np.inf)
        return x / w, y / w, valid

    return Registration(sampler)


def extrinsic(calibration: Calibration, plane_depth_m: float, rgb_is_rectified: bool = False) -> Registration:
    """Both cameras calibrated, the scene taken as the plane z = plane_depth_m of the RGB optical frame.

    plane_depth_m: positive. Objects at other depths are misplaced by `parallax_error_px`.
    rgb_is_rectified: the RGB images are already undistorted; calibration.rgb.k is then the rectified camera's
        matrix (P[:3, :3] of CameraInfo) and calibration.rgb.d is ignored.

    Convention:
        frame: optical frames, x right, y down, z forward; p_thermal = rotation @ p_rgb + translation_m.
        pixels: centres at integers, in raw (distorted) images unless rgb_is_rectified.
        direction: RGB pixel -> ray -> point on the plane -> thermal camera -> thermal pixel.

    A pixel is invalid when its ray cannot be found (round trip off by more than ROUND_TRIP_TOLERANCE_PX),
    when its point lies behind the thermal camera, beyond the radius up to which the thermal lens model is
    monotonic (see `radial_table`), or outside the thermal image.
    Images of another size than the calibration's are followed when both sides scale alike (binning).
    Raises RegistrationError for a calibration that cannot be used; register() raises it for a size that does
    not fit.
    """
    return Registration(
        plane_sampler(checked_calibration(calibration, plane_depth_m, rgb_is_rectified), plane_depth_m)
    )


def warm_up() -> None:
    """Pay for what the first lookup grid of a process needs, before a frame waits for it."""
    camera = Camera(32, 24, np.array([[32.0, 0, 16], [0, 32, 12], [0, 0, 1]]), d=np.full(5, 0.01))
    extrinsic(Calibration(camera, camera, np.eye(3), np.ones(3)), 20.0).prepare((32, 24), (32, 24))


def parallax_error_px(calibration: Calibration, plane_depth_m: float, object_depth_m: float) -> float:
    """How far, in RGB pixels, an object is misplaced because it is not on the assumed plane.

    Evaluated for an object on the RGB optical axis: the thermal ray through it meets the plane at another
    point, and the result is that point's distance from the RGB principal point. With parallel cameras a
    baseline b apart this is the textbook f * b * |1/object_depth - 1/plane_depth|. Infinite for an object
    beside or behind the thermal camera.

    Convention:
        frame: RGB optical frame; both depths along its z axis, metres.
        pixels: of the RGB image at the calibration's size, distortion neglected near the axis.
        direction: p_thermal = rotation @ p_rgb + translation_m.
    Raises RegistrationError for a bad calibration or a depth that is not positive.
    """
    _check_depth(plane_depth_m, "plane_depth_m")
    _check_depth(object_depth_m, "object_depth_m")
    check_calibration(calibration)
    thermal_centre_m = -calibration.rotation.T @ calibration.translation_m
    if object_depth_m - thermal_centre_m[2] < MIN_DEPTH_M:
        return float("inf")
    reach = (plane_depth_m - thermal_centre_m[2]) / (object_depth_m - thermal_centre_m[2])
    on_plane_m = thermal_centre_m + reach * (np.array([0.0, 0.0, object_depth_m]) - thermal_centre_m)
    return float(np.linalg.norm(calibration.rgb.k[:2, :2] @ on_plane_m[:2] / plane_depth_m))


# --- grids


def thermal_size_of(pixels: np.ndarray) -> Size:
    if pixels.ndim != 2 or not pixels.size or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise RegistrationError(
            f"thermal image is {pixels.dtype} of shape {pixels.shape}: publish one channel as mono8, mono16 or 32FC1"
        )
    return pixels.shape[1], pixels.shape[0]


def pixel_grid(size_px: Size, shift_px: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel centre plus shift, each (H, W) float64."""
    x, y = (np.arange(n, dtype=np.float64) + d for n, d in zip(size_px, shift_px, strict=True))
    columns, rows = np.meshgrid(x, y)
    return columns, rows


def _build_grid(
    sampler: Callable, shift_px: tuple[float, float], thermal_size_px: Size, rgb_size_px: Size
) -> Grid | None:
    """None where the thermal image lies on the RGB grid already."""
    if max(*thermal_size_px, *rgb_size_px) > MAX_SIDE_PX:
        raise RegistrationError(
            f"thermal is {thermal_size_px} px and RGB {rgb_size_px}: neither side may exceed {MAX_SIDE_PX}"
        )
    width_px, height_px = rgb_size_px
    map_xy = np.empty((height_px, width_px, 2), np.int16)
    map_fraction = np.empty((height_px, width_px), np.uint16)
    mask = np.empty((height_px, width_px), bool)
    aligned = thermal_size_px == rgb_size_px
    # By bands: a whole picture's worth of float64 in hand would leave the heap larger ever after.
    for top in range(0, height_px, BAND_PX):
        rows = slice(top, min(top + BAND_PX, height_px))
        u, v = pixel_grid((width_px, rows.stop - top), (shift_px[0], shift_px[1] + top))
        x, y, valid = sampler(u, v, thermal_size_px, rgb_size_px)
        mask[rows] = valid & _inside(x, y, thermal_size_px)
        aligned = aligned and valid.all() and _is_plain(x, y, top)
        # Uncovered pixels repeat the edge: cv2's own border modes go wrong past the range of int16.
        x, y = (
            np.fmin(np.fmax(at, 0), side_px - 1).astype(np.float32)  # 0 for NaN
            for at, side_px in zip((x, y), thermal_size_px, strict=True)
        )
        map_xy[rows], map_fraction[rows] = cv2.convertMaps(x, y, cv2.CV_16SC2)
    return None if aligned else _grid(map_xy, map_fraction, mask)


def _inside(x: np.ndarray, y: np.ndarray, thermal_size_px: Size) -> np.ndarray:
    """Where coordinates are on the thermal image, whose outermost pixels cover half a pixel past their centres."""
    width_px, height_px = thermal_size_px
    return (x >= -0.5) & (x <= width_px - 0.5) & (y >= -0.5) & (y <= height_px - 0.5)


def _is_plain(x: np.ndarray, y: np.ndarray, top: int) -> bool:
    """Whether thermal coordinates of the rows from `top` on are those of the RGB pixels themselves."""
    height, width = x.shape
    return bool((x == np.arange(width)).all() and (y == np.arange(top, top + height)[:, None]).all())


def _identity_sampler(u: np.ndarray, v: np.ndarray, thermal_size_px: Size, rgb_size_px: Size):
    x = (u + 0.5) * (thermal_size_px[0] / rgb_size_px[0]) - 0.5
    y = (v + 0.5) * (thermal_size_px[1] / rgb_size_px[1]) - 0.5
    return x, y, np.ones(u.shape, bool)


def _grid(map_xy: np.ndarray, map_fraction: np.ndarray, covered: np.ndarray) -> Grid:
    """With the weights of the pixels that thermal covers."""
    mask, weight, valid_fraction = None, None, float(covered.mean())
    if not covered.all():
        mask = covered
        weight = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # OpenCV's last bits depend on where in memory it works. Squared distances of pixels are whole numbers.
        np.sqrt(np.rint(np.square(weight, out=weight), out=weight), out=weight)
        np.minimum(np.divide(weight, np.float32(FEATHER_PX), out=weight), np.float32(1), out=weight)
    for array in (map_xy, map_fraction, mask, weight):
        if array is not None:
            array.setflags(write=False)
    return Grid(map_xy, map_fraction, mask, weight, valid_fraction)


def _check_depth(depth_m: float, name: str) -> None:
    if not (np.isfinite(depth_m) and depth_m > 0):
        raise RegistrationError(f"{name} is {depth_m}: set a positive distance in metres")


def checked_calibration(
    calibration: Calibration, plane_depth_m: float, rgb_is_rectified: bool
) -> Calibration:
    """The calibration of the RGB images as they come. Raises RegistrationError."""
    if rgb_is_rectified:
        calibration = replace(calibration, rgb=replace(calibration.rgb, d=np.zeros(0)))
    _check_depth(plane_depth_m, "plane_depth_m")
    check_calibration(calibration)
    return calibration


def plane_sampler(calibration: Calibration, plane_depth_m: float) -> Callable:
    def sampler(u: np.ndarray, v: np.ndarray, thermal_size_px: Size, rgb_size_px: Size):
        thermal = scaled(calibration.thermal, thermal_size_px, "thermal")
        rgb = scaled(calibration.rgb, rgb_size_px, "rgb")

        def exact(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """(..., 2) thermal pixels and (...) validity of RGB pixels."""
            directions, found = rays(rgb, np.stack([u.ravel(), v.ravel()], axis=1))
            points_m = plane_depth_m * np.column_stack([directions, np.ones(len(directions))])
            pixels, in_view = project(thermal, points_m @ calibration.rotation.T + calibration.translation_m)
            return pixels.reshape(*u.shape, 2), (found & in_view).reshape(u.shape)

        return _between_nodes(exact, u, v)

    return sampler


def _between_nodes(
    exact: Callable, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a sampler returns: `exact` at every NODE_PX-th pixel, bilinear between, exact where a node is invalid.

    Lenses bend slowly: the error stays below NODE_PX**2 / 8 times the map's second derivative.
    """
    height, width = u.shape
    rows, columns = (np.arange(0, side + NODE_PX, NODE_PX) for side in (height, width))
    at, found = exact(*np.meshgrid(u[0, 0] + columns, v[0, 0] + rows))
    x, y = (_upsampled(nodes)[:height, :width] for nodes in np.moveaxis(at, -1, 0))
    whole = found[:-1, :-1] & found[:-1, 1:] & found[1:, :-1] & found[1:, 1:]
    valid = whole.repeat(NODE_PX, 0).repeat(NODE_PX, 1)[:height, :width]
    rest = ~valid
    if rest.any():
        at, valid[rest] = exact(u[rest], v[rest])
        x[rest], y[rest] = at.T
    return x, y, valid


def _upsampled(nodes: np.ndarray) -> np.ndarray:
    """(H, W) -> (NODE_PX (H - 1), NODE_PX (W - 1)), bilinear from every node on."""
    share = np.arange(NODE_PX) / NODE_PX  # of the next node
    wide = nodes[:, :-1, None] * (1 - share) + nodes[:, 1:, None] * share
    wide, share = wide.reshape(len(nodes), 1, -1), share[:, None]
    return (wide[:-1] * (1 - share) + wide[1:] * share).reshape(-1, wide.shape[-1])
