"""Every parameter of the node: the settings of all rooms in one tree, by name, checked, and from parameter files.

`python -m fusionproxy_ros.pipeline.settings` writes config/fusion.yaml and docs/parameters.md from what is declared.
"""

import dataclasses
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from fusionproxy_ros.alignment.settings import DriftSettings
from fusionproxy_ros.core.errors import shown
from fusionproxy_ros.core.parameter_declaration import Declaration, ParameterError, parameter
from fusionproxy_ros.fusion.settings import GainSettings, NormalisationError, StudentSettings
from fusionproxy_ros.geometry.settings import RegistrationSettings
from fusionproxy_ros.pairing.settings import SyncSettings

FUSION_NODE = "/fusion"


@dataclass(frozen=True)
class NodeSettings:
    """The node."""

    autostart: bool = parameter(
        "autostart", True, "Configure and activate by itself; false under a lifecycle manager."
    )
    cameras: tuple[str, ...] = parameter(
        "cameras",
        ("",),
        "Names of camera pairs served by this node, each the first part of its topics ([front, rear]: "
        "front/rgb/image_raw ...); one nameless pair by default.",
    )


@dataclass(frozen=True)
class TopicSettings:
    """Topics."""

    reliability: str = parameter(
        "reliability",
        "auto",
        "QoS asked of the cameras; auto asks for reliable and follows a best-effort publisher.",
        choices=("auto", "reliable", "best_effort"),
    )
    rgb_transport: str = parameter(
        "rgb_transport",
        "raw",
        "compressed subscribes to rgb/image_raw/compressed.",
        choices=("raw", "compressed"),
    )
    thermal_transport: str = parameter(
        "thermal_transport",
        "raw",
        "compressed subscribes to thermal/image_raw/compressed (PNG only: JPEG destroys counts).",
        choices=("raw", "compressed"),
    )
    debug_images: bool = parameter(
        "debug_images", False, "Publish ~/debug/thermal_registered and ~/debug/overlay."
    )


@dataclass(frozen=True)
class Settings:
    """Everything that holds for one camera pair, each part as the room that uses it declares it."""

    node: NodeSettings = field(default_factory=NodeSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    gain: GainSettings = field(default_factory=GainSettings)
    student: StudentSettings = field(default_factory=StudentSettings)


@dataclass(frozen=True)
class Place:
    """Where the value of one parameter lies in Settings, and what it may be."""

    declaration: Declaration
    part: str
    attribute: str
    default: Any

    def value_in(self, settings: Settings) -> Any:
        """The parameter's value there."""
        return getattr(getattr(settings, self.part), self.attribute)


PLACES = {  # by the parameter's name
    declared.name: Place(declared, part.name, f.name, f.default)
    for part in dataclasses.fields(Settings)
    for f in dataclasses.fields(part.type)  # type: ignore[arg-type]  # the class itself: annotations are not strings here
    for declared in [f.metadata["declaration"]]
}
# One student serves all cameras; every other parameter may be given for one of them, as in front.deadline_s.
OF_THE_NODE = {name for name, place in PLACES.items() if place.part in ("node", "student")}
CAMERA_NAME = r"[A-Za-z][A-Za-z0-9_]*"
ROS_OWN = {"use_sim_time", "start_type_description_service"}


def plain(value: Any) -> Any:
    """A value as Settings hold it: arrays are tuples."""
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)


def known_names(cameras: Iterable[str]) -> dict[str, str]:
    """Name -> the one in PLACES that it stands for: itself, or without the name of a camera pair."""
    of_cameras = [name for name in PLACES if name not in OF_THE_NODE]
    own = {f"{camera}.{name}": name for camera in cameras if camera for name in of_cameras}
    return own | {name: name for name in PLACES}


def unknown(name: str, cameras: Iterable[str]) -> str:
    """What to say of a parameter that does not exist."""
    near = difflib.get_close_matches(name, known_names(cameras), n=1, cutoff=0.0)[0]
    return f"parameter {name} is unknown: did you mean {near}? Correct it and start again"


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Settings with these values by parameter name; the others at their defaults. Raises ParameterError."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        place = PLACES[name]
        _check_value(name, place, value)
        parts.setdefault(place.part, {})[place.attribute] = value
    kinds = {part.name: part.type for part in dataclasses.fields(Settings)}
    try:
        settings = Settings(**{part: kinds[part](**given) for part, given in parts.items()})  # type: ignore[operator]
    except NormalisationError as error:
        raise ParameterError(f"parameters normalisation.*: {error}") from error
    _check_cameras(settings.node.cameras)
    return settings


def _check_value(name: str, place: Place, value: Any) -> None:
    choices = place.declaration.choices
    if choices and value not in choices:
        raise ParameterError(f"parameter {name} is '{value}': choose one of {', '.join(choices)}")
    if isinstance(place.default, tuple) and name != "cameras" and len(value) != len(place.default):
        raise ParameterError(f"parameter {name} has {len(value)} numbers: it needs {len(place.default)}")


def _check_cameras(names: tuple[str, ...]) -> None:
    groups = {name.split(".")[0] for name in PLACES} | {"qos_overrides"}
    fit = all(re.fullmatch(CAMERA_NAME, name) and name not in groups for name in names) or names == ("",)
    if not fit or not names or len(set(names)) < len(names):
        raise ParameterError(
            f"parameter cameras is {shown(str(list(names)))}: give each pair another name of letters, digits and _ "
            'that no parameter begins with, such as [front, rear], or [""] for one pair'
        )


@dataclass(frozen=True)
class GivenParameters:
    """Values by parameter name; `front.deadline_s` is that of the camera pair "front", before `deadline_s`."""

    values: Mapping[str, Any]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the camera pairs."""
        return self.values.get("cameras", PLACES["cameras"].default)

    def of(self, camera: str) -> Settings:
        """What holds for one camera pair. Raises ParameterError."""
        own = {name: self.values.get(f"{camera}.{name}", self.values.get(name)) for name in PLACES}
        return settings_from({name: value for name, value in own.items() if value is not None})


# --- parameter files


def load_settings(path: Path, camera: str | None = None) -> Settings:
    """What the node would be configured with by `--params-file path`, for one of its camera pairs.

    camera: may be left out where the file names no more than one. Raises ParameterError.
    """
    try:
        tree = yaml.safe_load(path.read_text())
        sections = [
            section["ros__parameters"]
            for node, section in tree.items()
            if fnmatch(FUSION_NODE, f"/{node.lstrip('/')}")
        ]
        given = {name: value for section in sections for name, value in _flat(section)}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path} is no parameter file ({shown(str(error))}): take config/fusion.yaml as the pattern"
        ) from error
    if not sections:
        raise ParameterError(
            f"{path} has no parameters for the node {FUSION_NODE}: begin it with /**: or fusion:"
        )
    cameras = _typed("cameras", "cameras", given.get("cameras", [""]))
    known = known_names(cameras)
    for name in sorted(given.keys() - ROS_OWN):
        if name not in known and not name.startswith("qos_overrides."):
            raise ParameterError(unknown(name, cameras))
    parameters = GivenParameters(
        {name: _typed(name, known[name], given[name]) for name in known if name in given}
    )
    every = {name: parameters.of(name) for name in cameras or ("",)}
    if camera is None and len(every) == 1:
        (camera,) = every
    if camera is None or camera not in every:
        raise ParameterError(f"{path} is for the cameras {', '.join(cameras)}: say which with --camera")
    return every[camera]


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _typed(name: str, declared_name: str, value: Any) -> Any:
    """A value of a file, of the type and in the range that the node would ask for."""
    default, limits = PLACES[declared_name].default, PLACES[declared_name].declaration.limits
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


# --- the manual

SEVERAL_CAMERAS = """
# Several camera pairs in one node share one student. With cameras: [front, rear], every parameter but autostart,
# cameras and student.* may be given for one of them, and goes before that of all:
#   front: {registration: {mode: extrinsic, calibration_file: front.yaml}}
#   rear: {thermal_time_offset_s: 0.012, registration: {mode: homography, homography: [...]}}
"""


def parameter_file() -> str:
    """config/fusion.yaml: every parameter with its default, and what is said of it."""
    lines = [
        "# Every parameter of the fusion node at its default (written by python -m fusionproxy_ros.pipeline.settings).",
        "# (live) may change while the node runs, the others take effect at the next configure.",
        "# `ros2 param describe /fusion NAME` says the same.",
        "/**:",
        "  ros__parameters:",
    ]
    introduced: set[str] = set()
    sections: dict[str, list[str]] = {}
    for name in PLACES:
        sections.setdefault(name.rpartition(".")[0], []).append(name)
    for section, names in sections.items():
        indent = "      " if section else "    "
        lines += ["", f"    {section}:"] if section else []
        known = frozenset(introduced)
        for name in sorted(names, key=lambda name: PLACES[name].part not in known):
            place = PLACES[name]
            if place.part not in introduced:
                introduced.add(place.part)
                lines += ["", *_commented(_introduction(place.part), indent), f"{indent}#"]
            lines += _commented(f"{_limits(place)}{place.declaration.text}", indent)
            lines.append(f"{indent}{name.rpartition('.')[2]}: {_written(place.default)}")
    return "\n".join(lines) + "\n" + SEVERAL_CAMERAS


def parameter_table() -> str:
    """docs/parameters.md: the same as a table."""
    lines = [
        "# Parameters",
        "",
        "Written by `python -m fusionproxy_ros.pipeline.settings`; (live) ones may change while the node runs.",
        "",
        "| parameter | default | what it is |",
        "|---|---|---|",
    ]
    for name, place in PLACES.items():
        text = place.declaration.text.replace("|", "\\|")
        lines.append(f"| `{name}` | `{_written(place.default)}` | {_limits(place)}{text} |")
    return "\n".join(lines) + "\n"


def _introduction(part: str) -> str:
    """The first paragraph of what a part of Settings says of itself."""
    kind = next(f.type for f in dataclasses.fields(Settings) if f.name == part)
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _commented(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _limits(place: Place) -> str:
    """What goes before the text: "(live) 0 to 10. ", or the choices that the text does not name."""
    declared = place.declaration
    said = ["(live)"] if declared.live else []
    if declared.limits:
        said.append(" to ".join(f"{limit:g}" for limit in declared.limits) + ".")
    elif not all(choice in declared.text for choice in declared.choices):
        said.append(f"One of {', '.join(declared.choices)}.")
    return " ".join([*said, ""])


def _written(value: Any) -> str:
    """A default as YAML has it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


if __name__ == "__main__":
    ROOT = Path(__file__).parents[2]
    (ROOT / "config" / "fusion.yaml").write_text(parameter_file())
    (ROOT / "docs" / "parameters.md").write_text(parameter_table())
