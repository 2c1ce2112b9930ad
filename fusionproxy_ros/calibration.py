"""Where a calibration comes from when it is a file, and the checks every calibration passes."""

from pathlib import Path

import numpy as np
import yaml

from fusionproxy_ros.frames import Calibration, Camera, RegistrationError
from fusionproxy_ros.lens import check_camera, numbers

ROTATION_TOLERANCE = 1e-3


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
        values = np.loadtxt(path.read_text(encoding="utf-8").replace(",", " ").splitlines()).ravel()
    except (OSError, ValueError) as error:
        raise RegistrationError(f"{path} cannot be read as nine numbers: {error}") from error
    if values.size != 9:
        raise RegistrationError(
            f"{path} holds {values.size} numbers: write the nine of the homography, row by row"
        )
    return values.reshape(3, 3)


def check_calibration(calibration: Calibration) -> None:
    """Raises RegistrationError naming the cause and the cure."""
    check_camera(calibration.rgb, "rgb")
    check_camera(calibration.thermal, "thermal")
    numbers(calibration.translation_m, (3,), "extrinsics translation_m")
    rotation = numbers(calibration.rotation, (3, 3), "extrinsics rotation")
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
    return numbers(value, (np.size(value) if count is None else count,), f"key {key}")


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
