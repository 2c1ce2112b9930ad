"""How one camera maps directions to pixels: pinhole and lens distortion, both ways, at any binning.

After OpenCV: calib3d (Brown-Conrady, rational, thin prism, tilt) and fisheye (Kannala-Brandt, ROS's
"equidistant"). Pixel centres are at integer coordinates; a ray is (x, y) at z = 1 of the optical frame.
"""

from dataclasses import replace

import numpy as np

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import Camera

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
ROUND_TRIP_TOLERANCE_PX = 0.01
MIN_DEPTH_M = 1e-6  # points nearer than this to the camera's own plane count as behind it
Size = tuple[int, int]


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


def radial_table(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
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


def _distort(camera: Camera, directions: np.ndarray) -> np.ndarray:
    """Normalised image coordinates (N, 2), z = 1, with lens distortion applied.

    Written out because cv2.projectPoints always computes its Jacobian in Python: ten times the time.
    """
    x, y = directions.T
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


def rays(camera: Camera, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays (x, y) at z = 1 seen by pixels (N, 2), and (N,) bool: found.

    The radial part is inverted exactly from its table, which, unlike OpenCV's fixed-point iteration, also
    holds for strong distortion; the rest (tangential, prism, tilt) is small and iterated away. The round trip
    decides.
    """
    distorted = (pixels - camera.k[:2, 2]) @ np.linalg.inv(camera.k[:2, :2]).T
    if _is_undistorted(camera):
        return distorted, np.ones(len(pixels), bool)
    theta_knots, radius_knots = radial_table(camera)
    tolerance = ROUND_TRIP_TOLERANCE_PX / max(camera.k[0, 0], camera.k[1, 1])
    radial = distorted
    for _ in range(20):
        radius = np.hypot(radial[:, 0], radial[:, 1])
        theta = np.interp(radius, radius_knots, theta_knots)
        directions = radial * (np.tan(theta) / np.maximum(radius, 1e-12))[:, None]
        residual = distorted - _distort(camera, directions)
        error = np.hypot(residual[:, 0], residual[:, 1])
        if error.max() < 0.01 * tolerance:
            break
        radial = radial + residual
    return directions, error <= tolerance


def project(camera: Camera, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of points (N, 3) in the camera's frame, and (N,) bool: the lens model holds there.

    A point outside the model gets the pixel of the outermost direction towards it that is still inside.
    """
    in_front = points_m[:, 2] >= MIN_DEPTH_M
    directions = points_m[:, :2] / np.maximum(points_m[:, 2:], MIN_DEPTH_M)
    if _is_undistorted(camera):
        return directions @ camera.k[:2, :2].T + camera.k[:2, 2], in_front
    radius = np.hypot(directions[:, 0], directions[:, 1])
    limit = np.tan(radial_table(camera)[0][-1])
    directions = directions * (np.minimum(radius, limit) / np.maximum(radius, 1e-12))[:, None]
    pixels = _distort(camera, directions) @ camera.k[:2, :2].T + camera.k[:2, 2]
    return pixels, in_front & (radius <= limit)


def scaled(camera: Camera, size_px: Size, name: str) -> Camera:
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
