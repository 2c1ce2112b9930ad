"""Every parameter of the node, once: default, range, unit, reason, and whether it may change at run time.

config/fusion.yaml is the manual for users; a test holds it and this table together.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import yaml

from fusionproxy_ros.frames import NS_PER_S, FusionError, shown
from fusionproxy_ros.normalisation import NormalisationConfig, NormalisationError
from fusionproxy_ros.sync import SyncConfig

NODE = "/fusion"


class ParameterError(FusionError):
    """A parameter has a value that it cannot have; the text names it, the value and what it may be."""


def _parameter(name, default, description, *, low=None, high=None, choices=(), live=False):
    metadata = {"name": name, "description": description, "choices": choices, "live": live}
    metadata["range"] = None if low is None else (low, high)
    return field(default=default, metadata=metadata)


IDENTITY_3X3 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Parameters:
    """All parameters of FusionNode. Field metadata holds the ROS name, description, range or choices."""

    autostart: bool = _parameter(
        "autostart", True, "Configure and activate by itself; false under a lifecycle manager."
    )
    cameras: tuple = _parameter(
        "cameras",
        ("",),
        "Names of camera pairs served by this node, each the first part of its topics; one nameless pair by default.",
    )
    reliability: str = _parameter(
        "reliability",
        "auto",
        "QoS asked of the cameras; auto asks for reliable and follows a best-effort publisher.",
        choices=("auto", "reliable", "best_effort"),
    )
    rgb_transport: str = _parameter(
        "rgb_transport",
        "raw",
        "compressed subscribes to rgb/image_raw/compressed.",
        choices=("raw", "compressed"),
    )
    thermal_transport: str = _parameter(
        "thermal_transport",
        "raw",
        "compressed subscribes to thermal/image_raw/compressed (PNG only: JPEG destroys counts).",
        choices=("raw", "compressed"),
    )
    sync_policy: str = _parameter(
        "sync_policy",
        "nearest",
        "nearest is ours; the others let ROS's message_filters choose the pairs, where it is installed.",
        choices=("nearest", "approximate_time", "exact_time"),
    )
    sync_tolerance_s: float = _parameter(
        "sync_tolerance_s",
        0.06,
        "Largest |skew| in s of a FUSED pair; 0.06 accepts the nearest frame of a 9 Hz thermal camera.",
        low=0.0,
        high=1.0,
        live=True,
    )
    deadline_s: float = _parameter(
        "deadline_s",
        0.04,
        "How long in s an RGB frame waits for its thermal frame before it is answered without.",
        low=0.0,
        high=1.0,
        live=True,
    )
    max_hold_s: float = _parameter(
        "max_hold_s",
        0.5,
        "Age in s up to which the last thermal frame is HELD.",
        low=0.0,
        high=10.0,
        live=True,
    )
    thermal_time_offset_s: float = _parameter(
        "thermal_time_offset_s",
        0.0,
        "Added in s to RGB stamps to get the thermal clock: positive when thermal stamps are late.",
        low=-1e6,
        high=1e6,
        live=True,
    )
    frozen_after_s: float = _parameter(
        "frozen_after_s",
        0.2,
        "Thermal that repeats itself bit for bit for longer, in s, or is flat, counts as missing; 0 accepts all.",
        low=0.0,
        high=10.0,
        live=True,
    )
    max_latency_s: float = _parameter(
        "max_latency_s",
        0.2,
        "Overload: a frame this old in s is skipped, and counted, when a newer one is ready. Fusing that takes "
        "a quarter of it and thrice the usual (at the start: half of it) stalls: RGB passes.",
        low=0.01,
        high=10.0,
        live=True,
    )
    registration_mode: str = _parameter(
        "registration.mode",
        "identity",
        "identity: same field of view; homography: 3x3; extrinsic: calibrated, and a plane; depth: and depth/image.",
        choices=("identity", "homography", "extrinsic", "depth"),
    )
    calibration_file: str = _parameter(
        "registration.calibration_file",
        "",
        "YAML of fusionproxy calibrate, or Kalibr camchain, used instead of camera_info and the numbers here.",
    )
    extrinsics_source: str = _parameter(
        "registration.extrinsics_source",
        "parameters",
        "parameters: rotation and translation_m, or calibration_file where given; tf: between both images' frame_ids.",
        choices=("parameters", "tf"),
    )
    homography: tuple = _parameter(
        "registration.homography", IDENTITY_3X3, "Row-major 3x3 matrix, thermal pixel -> RGB pixel."
    )
    rotation: tuple = _parameter(
        "registration.rotation",
        IDENTITY_3X3,
        "Row-major 3x3 rotation R of p_thermal = R p_rgb + t, optical frames.",
    )
    translation_m: tuple = _parameter(
        "registration.translation_m", (0.0, 0.0, 0.0), "Translation t in m of p_thermal = R p_rgb + t."
    )
    plane_depth_m: float = _parameter(
        "registration.plane_depth_m",
        20.0,
        "Depth in m at which extrinsic registration is exact; nearer objects shift by parallax.",
        low=0.1,
        high=10_000.0,
        live=True,
    )
    nearest_object_m: float = _parameter(
        "registration.nearest_object_m",
        3.0,
        "Distance in m of the nearest object that matters; its parallax error on the plane is in fused/status.",
        low=0.1,
        high=10_000.0,
        live=True,
    )
    depth_tolerance_s: float = _parameter(
        "registration.depth_tolerance_s",
        0.1,
        "Largest distance in s between a depth image and the RGB frame; without one the plane is used.",
        low=0.0,
        high=10.0,
        live=True,
    )
    misalignment_warn_px: float = _parameter(
        "registration.misalignment_warn_px",
        4.0,
        "Estimated offset in px of thermal from RGB above which diagnostics warn; 0 turns the estimate off.",
        low=0.0,
        high=100.0,
        live=True,
    )
    refine_max_px: float = _parameter(
        "registration.refine_max_px",
        0.0,
        "Largest correction in px of an estimated offset; 0 corrects nothing.",
        low=0.0,
        high=100.0,
        live=True,
    )
    rgb_is_rectified: bool = _parameter(
        "registration.rgb_is_rectified",
        False,
        "The RGB image is already undistorted: take P of rgb/camera_info, not K and D.",
    )
    normalisation_mode: str = _parameter(
        "normalisation.mode",
        "auto",
        "auto: 8-bit thermal as the camera made it, everything else by temporal AGC; fixed: low..high.",
        choices=("auto", "fixed"),
    )
    low: float = _parameter("normalisation.low", 28_315.0, "Thermal counts shown as black in fixed mode.")
    high: float = _parameter("normalisation.high", 31_315.0, "Thermal counts shown as white in fixed mode.")
    time_constant_s: float = _parameter(
        "normalisation.time_constant_s",
        1.0,
        "Time in s in which the AGC follows 63 % of a change.",
        low=0.01,
        high=600.0,
    )
    min_span_counts: float = _parameter(
        "normalisation.min_span_counts",
        200.0,
        "Narrowest AGC window of 16-bit thermal in counts, so that a flat scene's noise is not amplified.",
        low=1.0,
        high=65_535.0,
    )
    min_span_k: float = _parameter(
        "normalisation.min_span_k", 2.0, "The same for 32FC1 thermal, in kelvin.", low=0.001, high=1000.0
    )
    student_path: str = _parameter(
        "student.path", "", "Checkpoint (.safetensors); empty: the shipped student."
    )
    device: str = _parameter(
        "student.device", "auto", "auto takes CUDA where there is one.", choices=("auto", "cpu", "cuda")
    )
    threads: int = _parameter(
        "student.threads",
        2,
        "CPU threads of the student; more than the free cores makes it slower.",
        low=1,
        high=64,
    )
    debug_images: bool = _parameter(
        "debug_images", False, "Publish ~/debug/thermal_registered and ~/debug/overlay."
    )

    @property
    def max_latency_ns(self) -> int:
        return round(self.max_latency_s * NS_PER_S)

    def sync_config(self) -> SyncConfig:
        """The sync parameters in integer nanoseconds."""
        seconds = (
            *(self.sync_tolerance_s, self.deadline_s, self.max_hold_s),
            *(self.thermal_time_offset_s, self.depth_tolerance_s, self.frozen_after_s),
        )
        return SyncConfig(*(round(s * NS_PER_S) for s in seconds))

    def normalisation_config(self) -> NormalisationConfig:
        """Raises NormalisationError."""
        return NormalisationConfig(
            mode=self.normalisation_mode,
            low=self.low,
            high=self.high,
            time_constant_s=self.time_constant_s,
            min_span_counts=self.min_span_counts,
            min_span_k=self.min_span_k,
        )


# One student serves all cameras; every other parameter may be given for one of them, as in front.deadline_s.
OF_THE_NODE = ("autostart", "cameras", "student.path", "student.device", "student.threads")
CAMERA_NAME = r"[A-Za-z][A-Za-z0-9_]*"
ROS_OWN = {"use_sim_time", "start_type_description_service"}
FIELDS = {f.metadata["name"]: f for f in dataclasses.fields(Parameters)}


def plain(value):
    """A value as Parameters holds it: arrays are tuples."""
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)


def known_names(cameras: Iterable[str]) -> dict[str, str]:
    """Name -> the one in FIELDS that it stands for: itself, or without the name of a camera pair."""
    of_cameras = [name for name in FIELDS if name not in OF_THE_NODE]
    own = {f"{camera}.{name}": name for camera in cameras if camera for name in of_cameras}
    return own | {name: name for name in FIELDS}


def unknown(name: str, cameras: Iterable[str]) -> str:
    """What to say of a parameter that does not exist."""
    near = difflib.get_close_matches(name, known_names(cameras), n=1, cutoff=0.0)[0]
    return f"parameter {name} is unknown: did you mean {near}? Correct it and start again"


def checked(parameters: Parameters) -> Parameters:
    """`parameters`, if it can be had. Raises ParameterError."""
    for name, f in FIELDS.items():
        value, choices = getattr(parameters, f.name), f.metadata["choices"]
        if choices and value not in choices:
            raise ParameterError(f"parameter {name} is '{value}': choose one of {', '.join(choices)}")
        if isinstance(f.default, tuple) and name != "cameras" and len(value) != len(f.default):
            raise ParameterError(f"parameter {name} has {len(value)} numbers: it needs {len(f.default)}")
    names = parameters.cameras
    groups = {name.split(".")[0] for name in FIELDS} | {"qos_overrides"}
    fit = all(re.fullmatch(CAMERA_NAME, name) and name not in groups for name in names) or names == ("",)
    if not fit or not names or len(set(names)) < len(names):
        raise ParameterError(
            f"parameter cameras is {shown(str(list(names)))}: give each pair another name of letters, digits and _ "
            'that no parameter begins with, such as [front, rear], or [""] for one pair'
        )
    try:
        parameters.normalisation_config()
    except NormalisationError as error:
        raise ParameterError(f"parameters normalisation.*: {error}") from error
    return parameters


@dataclass(frozen=True)
class Settings:
    """Values by parameter name; `front.deadline_s` is that of the camera pair "front", before `deadline_s`."""

    values: Mapping[str, object]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the camera pairs."""
        return self.values.get("cameras", Parameters.cameras)

    def of(self, camera: str) -> Parameters:
        """What holds for one camera pair. Raises ParameterError."""
        own = {name: self.values.get(f"{camera}.{name}", self.values.get(name)) for name in FIELDS}
        return checked(
            Parameters(**{FIELDS[name].name: value for name, value in own.items() if value is not None})
        )


def load_parameters(path: Path, camera: str | None = None) -> Parameters:
    """What the node would be configured with by `--params-file path`, for one of its camera pairs.

    camera: may be left out where the file names no more than one. Raises ParameterError.
    """
    try:
        tree = yaml.safe_load(path.read_text())
        sections = [
            section["ros__parameters"]
            for node, section in tree.items()
            if fnmatch(NODE, f"/{node.lstrip('/')}")
        ]
        given = {name: value for section in sections for name, value in _flat(section)}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path} is no parameter file ({shown(str(error))}): take config/fusion.yaml as the pattern"
        ) from error
    if not sections:
        raise ParameterError(f"{path} has no parameters for the node {NODE}: begin it with /**: or fusion:")
    cameras = _typed("cameras", "cameras", given.get("cameras", [""]))
    known = known_names(cameras)
    for name in sorted(given.keys() - ROS_OWN):
        if name not in known and not name.startswith("qos_overrides."):
            raise ParameterError(unknown(name, cameras))
    settings = Settings({name: _typed(name, known[name], given[name]) for name in known if name in given})
    every = {name: settings.of(name) for name in cameras or ("",)}
    if camera is None and len(every) == 1:
        (camera,) = every
    if camera not in every:
        raise ParameterError(f"{path} is for the cameras {', '.join(cameras)}: say which with --camera")
    return every[camera]


def _flat(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _typed(name: str, field_name: str, value):
    """A value of a file, of the type and in the range that the node would ask for."""
    default, limits = FIELDS[field_name].default, FIELDS[field_name].metadata["range"]
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(type(v) is type(default[0]) for v in value):
            wanted = "names such as front" if default[0] == "" else "numbers such as 1.0"
            raise ParameterError(f"parameter {name} is {shown(str(value))}: write a list of {wanted}")
        return tuple(value)
    if type(value) is not type(default):
        hint = f"; write {float(default)}, not {round(default)}" if isinstance(default, float) else ""
        raise ParameterError(
            f"parameter {name} is {shown(str(value))}: it must be {type(default).__name__}{hint}"
        )
    if limits and not limits[0] <= value <= limits[1]:
        raise ParameterError(f"parameter {name} is {value}: it must be between {limits[0]} and {limits[1]}")
    return value
