"""What every calibration must satisfy, wherever it comes from."""

import numpy as np

from fusionproxy_ros.core.errors import RegistrationError, shown
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.lens import COEFFICIENTS

MIN_FOCAL_PX, MAX_FOCAL_PX = 1e-2, 1e7  # beyond, arithmetic ends before optics does


def numbers(value, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`value` as finite float64 of this shape. Raises RegistrationError naming it as `name`."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{name} is not numeric ({error}): give {shape} numbers") from error
    if array.shape != shape:
        raise RegistrationError(f"{name} has shape {array.shape}: give {shape}")
    if not np.isfinite(array).all():
        raise RegistrationError(f"{name} holds NaN or infinity: calibrate again or correct the file")
    return array


def check_camera(camera: Camera, name: str) -> None:
    """Raises RegistrationError for intrinsics that no camera has; name: "rgb" or "thermal"."""
    topic = f"{name}/camera_info"
    k = numbers(camera.k, (3, 3), f"{topic} K")
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
    fx, fy = k[0, 0], k[1, 1]
    if not MIN_FOCAL_PX <= min(fx, fy) <= max(fx, fy) <= MAX_FOCAL_PX or abs(k[0, 1]) > fx:
        raise RegistrationError(
            f"{topic} has K={k.ravel().tolist()}: no camera has such a focal length or skew; calibrate it again"
        )
    if camera.width_px <= 0 or camera.height_px <= 0:
        raise RegistrationError(
            f"{topic} is for an image of {camera.width_px}x{camera.height_px} px: publish the width and "
            "height that the intrinsics were calibrated at"
        )
    d = numbers(camera.d, np.shape(camera.d), f"{topic} D")
    if not d.any():
        return  # no distortion, whatever the model's name: a driver may leave it empty
    if camera.distortion_model not in COEFFICIENTS:
        raise RegistrationError(
            f'{topic} has distortion_model "{shown(camera.distortion_model)}": supported are '
            f"{', '.join(COEFFICIENTS)} (OpenCV's fisheye is equidistant); calibrate with one of them"
        )
    allowed = COEFFICIENTS[camera.distortion_model]
    if d.ndim != 1 or d.size not in allowed:
        raise RegistrationError(
            f"{topic} has {d.size} distortion coefficients but {camera.distortion_model} takes "
            f"{' or '.join(map(str, allowed))}: correct D or distortion_model"
        )


ROTATION_TOLERANCE = 1e-3


def check_calibration(calibration: Calibration) -> None:
    """Raises RegistrationError naming the cause and the cure."""
    check_camera(calibration.rgb, "rgb")
    check_camera(calibration.thermal, "thermal")
    numbers(calibration.translation_m, (3,), "extrinsics translation_m")
    check_rotation(numbers(calibration.rotation, (3, 3), "extrinsics rotation"), "extrinsics rotation")


def check_rotation(rotation: np.ndarray, name: str) -> None:
    deviation = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if deviation > ROTATION_TOLERANCE:
        raise RegistrationError(
            f"{name} is not orthonormal: R @ R.T is off the identity by {deviation:.3g}, "
            f"allowed is {ROTATION_TOLERANCE:g}; give all nine numbers, row by row, to at least 5 digits"
        )
    if np.linalg.det(rotation) < 0:
        raise RegistrationError(
            f"{name} is a reflection (determinant -1): use optical frames (x right, y down, z "
            "forward) for both cameras"
        )
