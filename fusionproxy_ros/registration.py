"""Thermal on the RGB pixel grid, with one resampling, and which of those pixels are real.

Everywhere in this module pixel centres are at integer coordinates (OpenCV, ROS): an image of W columns spans
x from -0.5 to W - 0.5. A size is (width, height), an array is (H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from fusionproxy_ros.calibration import check_calibration
from fusionproxy_ros.frames import Calibration, RegistrationError
from fusionproxy_ros.lens import MIN_DEPTH_M, Size, numbers, project, rays, scaled

FEATHER_PX = 24  # a thermal view that ends at a visible line draws the eye, and detectors, to it
MAX_GRIDS = 4  # sizes seldom change in mid-stream; 640x480 costs 3.3 MB a grid


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
    """Thermal pixels on the RGB grid.

    pixels: (H, W), dtype of the input. Where no thermal pixel exists it repeats the nearest edge pixel, so
        that no edge appears which the scene does not have.
    mask: (H, W) bool, True where a real thermal pixel lies; None when every pixel is covered.
    weight: (H, W) float32 in 0..1, positive exactly where `mask` is True, rising to 1 over FEATHER_PX
        inwards; the frame of the RGB image itself is not feathered. None when every pixel is covered.
    valid_fraction: share of True in `mask`, 0..1.
    mask and weight are shared between frames and read-only.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    weight: np.ndarray | None
    valid_fraction: float


class Registration:
    """Moves thermal images onto the RGB grid; make one with `identity`, `homography` or `extrinsic`.

    sampler(thermal_size_px, rgb_size_px) -> x, y, valid: thermal coordinates of every RGB pixel, each (H, W)
    float64, and (H, W) bool. It may raise RegistrationError.
    """

    def __init__(self, sampler: Callable[[Size, Size], tuple[np.ndarray, np.ndarray, np.ndarray]]):
        @lru_cache(maxsize=MAX_GRIDS)
        def grid(thermal_size_px: Size, rgb_size_px: Size) -> Grid | None:
            return _grid(*sampler(thermal_size_px, rgb_size_px), thermal_size_px)

        self.grid = grid  # None where the thermal image lies on the RGB grid already

    def register(self, thermal_pixels: np.ndarray, rgb_size_px: Size) -> Registered:
        """Resample one thermal image onto the RGB grid, bilinear.

        thermal_pixels: (h, w) uint8, uint16 or float32. NaN spreads to the pixels interpolated from it.
        rgb_size_px: (width, height) of the RGB image.

        Fixed-point maps place a sample to 1/64 px. cv2.remap rounds float maps to the same 1/32 px steps
        (measured on OpenCV 4.14: identical output in all three dtypes), so one map serves all; uint16 is
        interpolated in float and rounded to whole counts.
        Raises RegistrationError for another shape or dtype, or for sizes that the calibration does not allow.
        """
        if (
            thermal_pixels.ndim != 2
            or not thermal_pixels.size
            or thermal_pixels.dtype not in (np.uint8, np.uint16, np.float32)
        ):
            raise RegistrationError(
                f"thermal image is {thermal_pixels.dtype} of shape {thermal_pixels.shape}: "
                "publish one channel as mono8, mono16 or 32FC1"
            )
        thermal_size_px = thermal_pixels.shape[1], thermal_pixels.shape[0]
        grid = self.grid(thermal_size_px, rgb_size_px)
        if grid is None:
            return Registered(thermal_pixels, mask=None, weight=None, valid_fraction=1.0)
        pixels = cv2.remap(thermal_pixels, grid.map_xy, grid.map_fraction, cv2.INTER_LINEAR)
        return Registered(pixels, grid.mask, grid.weight, grid.valid_fraction)


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

    def sampler(thermal_size_px: Size, rgb_size_px: Size):
        u, v = _pixel_grid(rgb_size_px)
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
    monotonic (see `_radial_table`), or outside the thermal image.
    Images of another size than the calibration's are followed when both sides scale alike (binning).
    Raises RegistrationError for a calibration that cannot be used; register() raises it for a size that does
    not fit.
    """
    if rgb_is_rectified:
        calibration = replace(calibration, rgb=replace(calibration.rgb, d=np.zeros(0)))
    _check_depth(plane_depth_m, "plane_depth_m")
    check_calibration(calibration)

    def sampler(thermal_size_px: Size, rgb_size_px: Size):
        rgb = scaled(calibration.rgb, rgb_size_px, "rgb")
        thermal = scaled(calibration.thermal, thermal_size_px, "thermal")
        u, v = _pixel_grid(rgb_size_px)
        directions, ray_found = rays(rgb, np.stack([u.ravel(), v.ravel()], axis=1))
        points_m = plane_depth_m * np.column_stack([directions, np.ones(len(directions))])
        points_m = points_m @ calibration.rotation.T + calibration.translation_m
        pixels, in_view = project(thermal, points_m)
        return (
            pixels[:, 0].reshape(u.shape),
            pixels[:, 1].reshape(u.shape),
            (ray_found & in_view).reshape(u.shape),
        )

    return Registration(sampler)


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


def _pixel_grid(size_px: Size) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel centre, each (H, W) float64."""
    return np.meshgrid(np.arange(size_px[0], dtype=np.float64), np.arange(size_px[1], dtype=np.float64))


def _identity_sampler(thermal_size_px: Size, rgb_size_px: Size):
    u, v = _pixel_grid(rgb_size_px)
    x = (u + 0.5) * (thermal_size_px[0] / rgb_size_px[0]) - 0.5
    y = (v + 0.5) * (thermal_size_px[1] / rgb_size_px[1]) - 0.5
    return x, y, np.ones(u.shape, bool)


def _grid(x: np.ndarray, y: np.ndarray, valid: np.ndarray, thermal_size_px: Size) -> Grid | None:
    """The grid of thermal coordinates (H, W) and their validity; None where they equal the RGB grid."""
    width_px, height_px = thermal_size_px
    if x.shape == (height_px, width_px) and valid.all():
        u, v = _pixel_grid(thermal_size_px)
        if np.array_equal(x, u) and np.array_equal(y, v):
            return None
    # The outermost pixels cover half a pixel past their centres.
    inside = (x >= -0.5) & (x <= width_px - 0.5) & (y >= -0.5) & (y <= height_px - 0.5)
    mask = valid & inside
    # Uncovered pixels repeat the edge: cv2's own border modes go wrong past the range of int16.
    x = np.nan_to_num(x).clip(0, width_px - 1).astype(np.float32)
    y = np.nan_to_num(y).clip(0, height_px - 1).astype(np.float32)
    map_xy, map_fraction = cv2.convertMaps(x, y, cv2.CV_16SC2)
    if mask.all():
        mask = weight = None
        valid_fraction = 1.0
    else:
        distance_px = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = np.minimum(distance_px / np.float32(FEATHER_PX), np.float32(1))
        valid_fraction = float(mask.mean())
    for array in (map_xy, map_fraction, mask, weight):
        if array is not None:
            array.setflags(write=False)
    return Grid(map_xy, map_fraction, mask, weight, valid_fraction)


def _check_depth(depth_m: float, name: str) -> None:
    if not (np.isfinite(depth_m) and depth_m > 0):
        raise RegistrationError(f"{name} is {depth_m}: set a positive distance in metres")
