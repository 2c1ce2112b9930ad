"""Calibrations in files: ours, ROS camera YAMLs, Kalibr camchains, homographies."""

import math
import re
from pathlib import Path

import numpy as np
import yaml

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.checks import check_rotation, numbers

# Kalibr's distortion_model -> ours, and how many distortion_coeffs it has. radtan is plumb_bob without k3.
KALIBR_DISTORTION = {"radtan": ("plumb_bob", 4), "equidistant": ("equidistant", 4), "none": ("plumb_bob", 0)}


def load_calibration(
    path: str | Path, rgb_topic: str = "rgb/image_raw", thermal_topic: str = "thermal/image_raw"
) -> Calibration:
    """Read both cameras and the motion between them from one YAML file, ours or a Kalibr camchain.

    Ours: `rgb:` and `thermal:` each hold a ROS camera calibration, as `load_camera` reads it, or the path of
    one, relative to this file; `extrinsics:` holds `rotation` (nine numbers, row by row) and `translation_m`
    (three). Other keys are ignored.

    Kalibr's: `cam0:`, `cam1:`, ... as kalibr_calibrate_cameras writes them (Kalibr wiki, "Yaml formats"). The
    cameras are those whose `rostopic` is rgb_topic and thermal_topic, but for a leading "/" or a trailing
    "/compressed"; only they have to be pinhole cameras. Other cameras in the chain carry the motion on.

    Convention:
        frame: optical frames, x right, y down, z forward.
        pixels: centres at integers.
        direction: p_thermal = rotation @ p_rgb + translation_m; Kalibr's T_cn_cnm1 takes a point from the
            frame of camera n-1 to that of camera n.
    Raises RegistrationError naming the file and the key at fault.
    """
    document = _read_yaml(path)
    try:
        if any(_kalibr_index(key) is not None for key in document):
            return _calibration_from_kalibr(document, rgb_topic, thermal_topic)
        return Calibration(
            rgb=_own_camera(document, "rgb", Path(path).parent),
            thermal=_own_camera(document, "thermal", Path(path).parent),
            rotation=_numbers(document, "extrinsics.rotation", 9).reshape(3, 3),
            translation_m=_numbers(document, "extrinsics.translation_m", 3),
        )
    except RegistrationError as error:
        raise RegistrationError(f"{path}: {error}") from error


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write our file that `load_calibration` reads; every number survives bit for bit."""
    document = {
        "rgb": _camera_to_yaml(calibration.rgb),
        "thermal": _camera_to_yaml(calibration.thermal),
        "extrinsics": {
            "rotation": calibration.rotation.ravel().tolist(),
            "translation_m": calibration.translation_m.tolist(),
        },
    }
    _write_yaml(document, path)


def load_camera(path: str | Path) -> Camera:
    """Read one camera from a ROS camera calibration, as camera_calibration and camera_info_manager write it.

    Its keys image_width, image_height, camera_matrix, distortion_model and distortion_coefficients are read
    (format: camera_calibration_parsers/src/parse_yml.cpp); the others are ignored. OpenCV's fisheye model is
    "equidistant" in ROS.
    Raises RegistrationError naming the file and the key at fault.
    """
    document = _read_yaml(path)
    try:
        return _camera_from_yaml(document)
    except RegistrationError as error:
        raise RegistrationError(f"{path}: {error}") from error


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


# --- YAML


def _read_yaml(path: str | Path) -> dict:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegistrationError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(document, dict):
        raise RegistrationError(f"{path} holds no YAML mapping: see load_calibration for the keys it needs")
    return document


def _write_yaml(document: dict, path: str | Path) -> None:
    # ROS too keeps a matrix on one line, however long.
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=math.inf)
    Path(path).write_text(text, encoding="utf-8")


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


# --- our own and ROS's format


def _own_camera(document: dict, name: str, folder: Path) -> Camera:
    section = _lookup(document, name)
    if isinstance(section, str):
        return load_camera(folder / section)
    return _camera_from_yaml(document, f"{name}.")


def _camera_from_yaml(document: dict, prefix: str = "") -> Camera:
    """prefix: of the dotted keys under which the camera lies, such as "rgb."."""
    width_px, height_px = (_lookup(document, f"{prefix}{key}") for key in ("image_width", "image_height"))
    if not (isinstance(width_px, int) and isinstance(height_px, int)):
        raise RegistrationError(
            f"keys {prefix}image_width and {prefix}image_height must be whole numbers of pixels"
        )
    return Camera(
        width_px=width_px,
        height_px=height_px,
        k=_numbers(document, f"{prefix}camera_matrix.data", 9).reshape(3, 3),
        distortion_model=str(_lookup(document, f"{prefix}distortion_model")),
        d=_numbers(document, f"{prefix}distortion_coefficients.data"),
    )


def _camera_to_yaml(camera: Camera) -> dict:
    return {
        "image_width": camera.width_px,
        "image_height": camera.height_px,
        "camera_matrix": _matrix_to_yaml(camera.k),
        "distortion_model": camera.distortion_model,
        "distortion_coefficients": _matrix_to_yaml(camera.d[None]),
    }


def _matrix_to_yaml(matrix: np.ndarray) -> dict:
    return {"rows": matrix.shape[0], "cols": matrix.shape[1], "data": matrix.ravel().tolist()}


# --- Kalibr's format


def _kalibr_index(key) -> int | None:
    """n of a key "camN"; None of another."""
    match = re.fullmatch(r"cam(\d+)", str(key))
    return int(match[1]) if match else None


def _calibration_from_kalibr(document: dict, rgb_topic: str, thermal_topic: str) -> Calibration:
    rgb, thermal = (_kalibr_camera_of(document, topic) for topic in (rgb_topic, thermal_topic))
    motion: np.ndarray = np.eye(
        4
    )  # from the frame of the camera that comes first in the chain to that of the other
    for index in range(min(rgb, thermal) + 1, max(rgb, thermal) + 1):
        motion = _rigid_motion(document, f"cam{index}.T_cn_cnm1") @ motion
    if thermal < rgb:
        motion = np.linalg.inv(motion)
    return Calibration(
        rgb=_camera_from_kalibr(document, f"cam{rgb}"),
        thermal=_camera_from_kalibr(document, f"cam{thermal}"),
        rotation=motion[:3, :3],
        translation_m=motion[:3, 3],
    )


def _kalibr_camera_of(document: dict, topic: str) -> int:
    """Index of the one camera that was recorded on this topic."""
    topics = {
        index: str(_lookup(document, f"{key}.rostopic"))
        for key in document
        if (index := _kalibr_index(key)) is not None
    }
    found = [index for index, rostopic in topics.items() if _plain(rostopic) == _plain(topic)]
    if len(found) != 1:
        listed = ", ".join(f"cam{index} {rostopic}" for index, rostopic in topics.items())
        raise RegistrationError(
            f"{len(found) or 'none'} of the cameras in this Kalibr file ({listed}) has the rostopic {topic}, "
            f"where exactly one should: remap the node's topic to the camera's, or change its rostopic to {topic}"
        )
    return found[0]


def _plain(topic: str) -> str:
    """A topic without what differs between a recording and a subscription to the same camera."""
    return topic.strip("/").removesuffix("/compressed")


def _rigid_motion(document: dict, key: str) -> np.ndarray:
    """(4, 4), checked to be a rotation and a translation in metres."""
    motion = numbers(_lookup(document, key), (4, 4), f"key {key}")
    check_rotation(motion[:3, :3], f"key {key}")
    if not np.array_equal(motion[3], (0, 0, 0, 1)):
        raise RegistrationError(f"key {key} has the last row {motion[3].tolist()}: give [0, 0, 0, 1]")
    return motion


def _camera_from_kalibr(document: dict, name: str) -> Camera:
    model, lens = (str(_lookup(document, f"{name}.{key}")) for key in ("camera_model", "distortion_model"))
    if model != "pinhole" or lens not in KALIBR_DISTORTION:
        raise RegistrationError(
            f"{name} has camera_model {model} with distortion_model {lens}, which CameraInfo and this package "
            "do not know: run kalibr_calibrate_cameras with --models pinhole-radtan, or pinhole-equi for a wide lens"
        )
    width_px, height_px = _numbers(document, f"{name}.resolution", 2)
    fu, fv, pu, pv = _numbers(document, f"{name}.intrinsics", 4)
    distortion_model, count = KALIBR_DISTORTION[lens]
    return Camera(
        width_px=int(width_px),
        height_px=int(height_px),
        k=np.array([[fu, 0, pu], [0, fv, pv], [0, 0, 1]]),
        distortion_model=distortion_model,
        d=_numbers(document, f"{name}.distortion_coeffs", count),
    )
