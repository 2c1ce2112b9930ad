"""Thermal on the RGB pixel grid, with one resampling, and which of those pixels are real.

Everywhere in this module pixel centres are at integer coordinates (OpenCV, ROS): an image of W columns spans
x from -0.5 to W - 0.5. A size is (width, height), an array is (H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import yaml

from fusionproxy_ros.frames import Calibration, Camera, FusionError

FEATHER_PX = 24  # a thermal view that ends at a visible line draws the eye, and detectors, to it
MAX_GRIDS = 4  # sizes seldom change in mid-stream; 640x480 costs 3.3 MB a grid
COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
ROTATION_TOLERANCE = 1e-3
ROUND_TRIP_TOLERANCE_PX = 0.01
MIN_DEPTH_M = 1e-6  # points nearer than this to the thermal camera's own plane count as behind it

Size = tuple[int, int]


class RegistrationError(FusionError):
    """The thermal image cannot be moved onto the RGB grid. The message names the cause and the cure."""


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
    h = _array(h, (3, 3), "homography")
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
    _check_calibration(calibration)

    def sampler(thermal_size_px: Size, rgb_size_px: Size):
        rgb = _scaled(calibration.rgb, rgb_size_px, "rgb")
        thermal = _scaled(calibration.thermal, thermal_size_px, "thermal")
        u, v = _pixel_grid(rgb_size_px)
        rays, ray_found = _rays(rgb, np.stack([u.ravel(), v.ravel()], axis=1))
        points_m = plane_depth_m * np.column_stack([rays, np.ones(len(rays))])
        points_m = points_m @ calibration.rotation.T + calibration.translation_m
        pixels, in_view = _project(thermal, points_m)
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
    _check_calibration(calibration)
    thermal_centre_m = -calibration.rotation.T @ calibration.translation_m
    if object_depth_m - thermal_centre_m[2] < MIN_DEPTH_M:
        return float("inf")
    reach = (plane_depth_m - thermal_centre_m[2]) / (object_depth_m - thermal_centre_m[2])
    on_plane_m = thermal_centre_m + reach * (np.array([0.0, 0.0, object_depth_m]) - thermal_centre_m)
    return float(np.linalg.norm(calibration.rgb.k[:2, :2] @ on_plane_m[:2] / plane_depth_m))


def load_calibration(path: str | Path) -> Calibration:
    """Read both cameras and the motion between them from one YAML file.

    `rgb:` and `thermal:` each hold a ROS camera calibration (image_width, image_height, camera_matrix,
    distortion_model, distortion_coefficients; other keys are ignored); `extrinsics:` holds `rotation` (nine
    numbers, row by row) and `translation_m` (three). OpenCV's fisheye model is "equidistant" in ROS.

    Convention:
        frame: optical frames, x right, y down, z forward.
        pixels: centres at integers.
        direction: p_thermal = rotation @ p_rgb + translation_m.
    Raises RegistrationError naming the file and the key at fault.
    """
    document = _read_yaml(path)
    try:
        return Calibration(
            rgb=_camera_from_yaml(document, "rgb"),
            thermal=_camera_from_yaml(document, "thermal"),
            rotation=_numbers(document, "extrinsics.rotation", 9).reshape(3, 3),
            translation_m=_numbers(document, "extrinsics.translation_m", 3),
        )
    except RegistrationError as error:
        raise RegistrationError(f"{path}: {error}") from error


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write the file that `load_calibration` reads; every number survives bit for bit."""
    document = {
        "rgb": _camera_to_yaml(calibration.rgb),
        "thermal": _camera_to_yaml(calibration.thermal),
        "extrinsics": {
            "rotation": calibration.rotation.ravel().tolist(),
            "translation_m": calibration.translation_m.tolist(),
        },
    }
    Path(path).write_text(
        yaml.safe_dump(document, sort_keys=False, default_flow_style=None), encoding="utf-8"
    )


def load_homography(path: str | Path) -> np.ndarray:
    """Read a (3, 3) float64 homography: `homography: [nine numbers]` in .yaml or .yml, else plain text.

    Convention:
        frame: image planes.
        pixels: centres at integers.
        direction: maps thermal (x, y, 1) to RGB; the nine numbers go row by row.
    Raises RegistrationError naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        try:
            return _numbers(_read_yaml(path), "homography", 9).reshape(3, 3)
        except RegistrationError as error:
            raise RegistrationError(f"{path}: {error}") from error
    try:
        numbers = np.loadtxt(path.read_text(encoding="utf-8").replace(",", " ").splitlines()).ravel()
    except (OSError, ValueError) as error:
        raise RegistrationError(f"{path} cannot be read as nine numbers: {error}") from error
    if numbers.size != 9:
        raise RegistrationError(
            f"{path} holds {numbers.size} numbers: write the nine of the homography, row by row"
        )
    return numbers.reshape(3, 3)


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


# --- lens models, after OpenCV: calib3d (Brown-Conrady, rational, thin prism, tilt), fisheye (Kannala-Brandt)


def _is_undistorted(camera: Camera) -> bool:
    """All-zero coefficients mean a pinhole whatever the model (`Camera`), "equidistant" included."""
    return not np.any(camera.d)


def _radial(camera: Camera, theta: np.ndarray) -> np.ndarray:
    """Distorted radius in the normalised image plane of a ray at angle theta (rad) to the optical axis."""
    if camera.distortion_model == "equidistant":
        return theta * np.polynomial.polynomial.polyval(theta**2, [1.0, *camera.d])
    k1, k2, _, _, k3, k4, k5, k6 = [*camera.d, *np.zeros(8)][:8]
    radius = np.tan(theta)
    numerator = np.polynomial.polynomial.polyval(radius**2, [1.0, k1, k2, k3])
    denominator = np.polynomial.polynomial.polyval(radius**2, [1.0, k4, k5, k6])
    return radius * numerator / denominator


def _radial_table(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Angles (radians) and their distorted radii, up to where the lens model stops being monotonic.

    Distortion polynomials hold inside the calibrated field of view only. Beyond it most of them turn round
    (or have a pole), and directions far outside would land inside the image: the first knot after which the
    radius no longer grows is the end of the model. Tangential, prism and tilt terms are left out of this
    bound, being small against the radial ones. 16384 knots to 89.9 degrees bound the error of linear
    interpolation by 1e-8 rad.
    """
    theta = np.linspace(0.0, np.radians(89.9), 16384)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = _radial(camera, theta)
        grows = np.diff(radius) > 0
    end = len(theta) if grows.all() else int(np.argmin(grows)) + 1
    return theta[:end], radius[:end]


def _distort(camera: Camera, rays: np.ndarray) -> np.ndarray:
    """Normalised image coordinates (N, 2), z = 1, with lens distortion applied.

    Written out because cv2.projectPoints always computes its Jacobian in Python: ten times the time.
    """
    x, y = rays.T
    r2 = x * x + y * y
    radius = np.sqrt(r2)
    radial = _radial(camera, np.arctan(radius)) / np.maximum(radius, 1e-12)
    if camera.distortion_model == "equidistant":
        return np.stack([x * radial, y * radial], axis=1)
    p1, p2 = camera.d[2:4]
    s1, s2, s3, s4, tilt_x, tilt_y = [*camera.d[8:], *np.zeros(6)][:6]
    distorted = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + (s1 + s2 * r2) * r2,
            y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + (s3 + s4 * r2) * r2,
        ],
        axis=1,
    )
    if tilt_x == 0 and tilt_y == 0:
        return distorted
    cx, sx, cy, sy = np.cos(tilt_x), np.sin(tilt_x), np.cos(tilt_y), np.sin(tilt_y)
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    tilt = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]]) @ turn
    tilted = np.column_stack([distorted, np.ones(len(distorted))]) @ tilt.T
    return tilted[:, :2] / tilted[:, 2:]


def _rays(camera: Camera, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays (x, y) at z = 1 seen by pixels (N, 2), and (N,) bool: found.

    The radial part is inverted exactly from its table, which, unlike OpenCV's fixed-point iteration, also
    holds for strong distortion; the rest (tangential, prism, tilt) is small and iterated away. The round trip
    decides.
    """
    distorted = (pixels - camera.k[:2, 2]) @ np.linalg.inv(camera.k[:2, :2]).T
    if _is_undistorted(camera):
        return distorted, np.ones(len(pixels), bool)
    theta_knots, radius_knots = _radial_table(camera)
    tolerance = ROUND_TRIP_TOLERANCE_PX / max(camera.k[0, 0], camera.k[1, 1])
    radial = distorted
    for _ in range(20):
        radius = np.hypot(radial[:, 0], radial[:, 1])
        theta = np.interp(radius, radius_knots, theta_knots)
        rays = radial * (np.tan(theta) / np.maximum(radius, 1e-12))[:, None]
        residual = distorted - _distort(camera, rays)
        error = np.hypot(residual[:, 0], residual[:, 1])
        if error.max() < 0.01 * tolerance:
            break
        radial = radial + residual
    return rays, error <= tolerance


def _project(camera: Camera, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of points (N, 3) in the camera's frame, and (N,) bool: the lens model holds there.

    A point outside the model gets the pixel of the outermost direction towards it that is still inside.
    """
    in_front = points_m[:, 2] >= MIN_DEPTH_M
    rays = points_m[:, :2] / np.maximum(points_m[:, 2:], MIN_DEPTH_M)
    if _is_undistorted(camera):
        return rays @ camera.k[:2, :2].T + camera.k[:2, 2], in_front
    radius = np.hypot(rays[:, 0], rays[:, 1])
    limit = np.tan(_radial_table(camera)[0][-1])
    rays = rays * (np.minimum(radius, limit) / np.maximum(radius, 1e-12))[:, None]
    pixels = _distort(camera, rays) @ camera.k[:2, :2].T + camera.k[:2, 2]
    return pixels, in_front & (radius <= limit)


def _scaled(camera: Camera, size_px: Size, name: str) -> Camera:
    """The camera at the size of the images it delivers; they may be binned or enlarged, not cropped."""
    if size_px == (camera.width_px, camera.height_px):
        return camera
    sx, sy = size_px[0] / camera.width_px, size_px[1] / camera.height_px
    if abs(camera.height_px * sx - size_px[1]) >= 1:  # a whole row more or less is no rounding
        raise RegistrationError(
            f"{name}/camera_info is for {camera.width_px}x{camera.height_px} px but the {name} image is "
            f"{size_px[0]}x{size_px[1]}, not the same shape scaled: publish the CameraInfo of the mode the "
            "camera runs in, or calibrate at this size"
        )
    # Scaling about the image's outer edge, half a pixel off the first centre: c' + 0.5 = s * (c + 0.5).
    k = np.diag([sx, sy, 1.0]) @ camera.k
    k[:2, 2] += (sx - 1) / 2, (sy - 1) / 2
    return replace(camera, width_px=size_px[0], height_px=size_px[1], k=k)


# --- checks: each message names the cause and the cure


def _array(value, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{name} is not numeric ({error}): give {shape} numbers") from error
    if array.shape != shape:
        raise RegistrationError(f"{name} has shape {array.shape}: give {shape}")
    if not np.isfinite(array).all():
        raise RegistrationError(f"{name} holds NaN or infinity: calibrate again or correct the file")
    return array


def _check_depth(depth_m: float, name: str) -> None:
    if not (np.isfinite(depth_m) and depth_m > 0):
        raise RegistrationError(f"{name} is {depth_m}: set a positive distance in metres")


def _check_camera(camera: Camera, name: str) -> None:
    topic = f"{name}/camera_info"
    k = _array(camera.k, (3, 3), f"{topic} K")
    if k[0, 0] == 0:
        raise RegistrationError(
            f"{topic} has K[0]==0 (uncalibrated): publish a calibrated CameraInfo or set registration.mode "
            "to identity or homography"
        )
    if k[0, 0] < 0 or k[1, 1] <= 0 or k[1, 0] != 0 or not np.array_equal(k[2], (0, 0, 1)):
        raise RegistrationError(
            f"{topic} has K={k.ravel().tolist()}, which is no pinhole matrix: give [fx 0 cx, 0 fy cy, 0 0 1] "
            "with positive fx and fy, row by row"
        )
    if camera.width_px <= 0 or camera.height_px <= 0:
        raise RegistrationError(
            f"{topic} is for an image of {camera.width_px}x{camera.height_px} px: publish the width and "
            "height that the intrinsics were calibrated at"
        )
    d = _array(camera.d, np.shape(camera.d), f"{topic} D")
    if not d.any():
        return  # no distortion, whatever the model's name: a driver may leave it empty
    if camera.distortion_model not in COEFFICIENTS:
        raise RegistrationError(
            f'{topic} has distortion_model "{camera.distortion_model}": supported are '
            f"{', '.join(COEFFICIENTS)} (OpenCV's fisheye is equidistant); calibrate with one of them"
        )
    allowed = COEFFICIENTS[camera.distortion_model]
    if d.ndim != 1 or d.size not in allowed:
        raise RegistrationError(
            f"{topic} has {d.size} distortion coefficients but {camera.distortion_model} takes "
            f"{' or '.join(map(str, allowed))}: correct D or distortion_model"
        )


def _check_calibration(calibration: Calibration) -> None:
    _check_camera(calibration.rgb, "rgb")
    _check_camera(calibration.thermal, "thermal")
    _array(calibration.translation_m, (3,), "extrinsics translation_m")
    rotation = _array(calibration.rotation, (3, 3), "extrinsics rotation")
    deviation = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if deviation > ROTATION_TOLERANCE:
        raise RegistrationError(
            f"extrinsics rotation is not orthonormal: R @ R.T is off the identity by {deviation:.3g}, "
            f"allowed is {ROTATION_TOLERANCE:g}; give all nine numbers, row by row, to at least 5 digits"
        )
    if np.linalg.det(rotation) < 0:
        raise RegistrationError(
            "extrinsics rotation is a reflection (determinant -1): use optical frames (x right, y down, z "
            "forward) for both cameras"
        )


# --- YAML


def _read_yaml(path: str | Path) -> dict:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegistrationError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(document, dict):
        raise RegistrationError(f"{path} holds no YAML mapping: see load_calibration for the keys it needs")
    return document


def _lookup(document: dict, key: str):
    """The value at a dotted key."""
    value = document
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise RegistrationError(f"key {key} is missing: add it")
        value = value[part]
    return value


def _numbers(document: dict, key: str, count: int | None = None) -> np.ndarray:
    """The flat list of finite numbers at a dotted key; exactly `count` of them where it is given."""
    value = _lookup(document, key)
    return _array(value, (np.size(value) if count is None else count,), f"key {key}")


def _camera_from_yaml(document: dict, name: str) -> Camera:
    width_px, height_px = (_lookup(document, f"{name}.{key}") for key in ("image_width", "image_height"))
    if not (isinstance(width_px, int) and isinstance(height_px, int)):
        raise RegistrationError(
            f"keys {name}.image_width and {name}.image_height must be whole numbers of pixels"
        )
    return Camera(
        width_px=width_px,
        height_px=height_px,
        k=_numbers(document, f"{name}.camera_matrix.data", 9).reshape(3, 3),
        distortion_model=str(_lookup(document, f"{name}.distortion_model")),
        d=_numbers(document, f"{name}.distortion_coefficients.data"),
    )


def _camera_to_yaml(camera: Camera) -> dict:
    return {
        "image_width": camera.width_px,
        "image_height": camera.height_px,
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.k.ravel().tolist()},
        "distortion_model": camera.distortion_model,
        "distortion_coefficients": {"rows": 1, "cols": camera.d.size, "data": camera.d.tolist()},
    }
