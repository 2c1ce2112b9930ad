"""One camera's intrinsics, and how two cameras sit to each other."""

from dataclasses import dataclass, field

import numpy as np

from fusionproxy_ros.core.errors import RegistrationError


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of one camera, as in sensor_msgs/CameraInfo.

    width_px, height_px: the image size the intrinsics hold for.
    k: (3, 3) float64 pinhole matrix, pixels. Pixel centres are at integer coordinates (OpenCV, ROS).
    distortion_model: "plumb_bob" (4 or 5 coefficients), "rational_polynomial" (8, 12 or 14) or "equidistant" (4).
    d: float64 coefficients in OpenCV's order; all zero or empty means none.
    """

    width_px: int
    height_px: int
    k: np.ndarray
    distortion_model: str = "plumb_bob"
    d: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Both cameras and the rigid motion between them.

    Convention: p_thermal = rotation @ p_rgb + translation_m, both in optical frames (x right, y down, z forward).
    rotation: (3, 3) float64, orthonormal, det +1. translation_m: (3,) float64, metres.
    """

    rgb: Camera
    thermal: Camera
    rotation: np.ndarray
    translation_m: np.ndarray


def rotation_matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    """(3, 3) float64 of a quaternion of any length but zero.

    Convention: Hamilton, scalar last as in geometry_msgs/Quaternion; rotates column vectors.
    Raises RegistrationError.
    """
    length = np.linalg.norm([x, y, z, w])
    if not (np.isfinite(length) and length > 0):
        raise RegistrationError(
            f"the transform's quaternion ({x}, {y}, {z}, {w}) is no rotation: publish (0, 0, 0, 1) for none"
        )
    x, y, z, w = np.array([x, y, z, w]) / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
