"""Which topics of a recording are the cameras', by what they carry and how they are named."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fusionproxy_ros.bags.recording import STATUS, Recording
from fusionproxy_ros.bags.storage import BagError

Found = TypeVar("Found")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
THERMAL_NAMES = ("thermal", "lwir", "infra", "flir", "boson", "lepton")
THERMAL_ONLY_ENCODINGS = ("mono16", "16UC1")
DEBUG_TOPICS = ("/debug/thermal_registered", "/debug/overlay")


@dataclass(frozen=True)
class CameraTopics:
    """Names of topics; None where the recording has no such."""

    rgb: str
    thermal: str
    depth: str | None = None
    rgb_info: str | None = None
    thermal_info: str | None = None


def choose_topics(recording: Recording, rgb: str | None = None, thermal: str | None = None) -> CameraTopics:
    """The cameras' topics; those not given are found by type, name and encoding.

    Raises BagError with a table of the image topics where one of the two is not clear.
    """
    images = {t.name for t in recording.topics.values() if t.type in (IMAGE, COMPRESSED)}
    for name in filter(None, (rgb, thermal)):
        if name not in images:
            raise BagError(f"{recording.path}: no image topic {name} in it.\n{_table(recording, images)}")
    outputs = fused_topics(recording)
    free = {
        name
        for name in images - outputs - {rgb, thermal}
        if "depth" not in name.lower()
        # The raw images of a camera rather than the same compressed.
        and not (name.endswith("/compressed") and name.removesuffix("/compressed") in images)
    }
    thermals = {name for name in free if _is_thermal(recording, name)}
    for option, given, candidates in (
        ("--rgb-topic", rgb, free - thermals),
        ("--thermal-topic", thermal, thermals),
    ):
        if not given and len(candidates) != 1:
            what = "several may be it" if candidates else "none looks like it"
            raise BagError(
                f"{recording.path} does not say which topic to use: give {option}, since {what}.\n"
                f"{_table(recording, images)}"
            )
    rgb, thermal = rgb or (free - thermals).pop(), thermal or thermals.pop()
    depths = [name for name in images if "depth" in name.lower() and recording.topics[name].type == IMAGE]
    depth = depths[0] if len(depths) == 1 else None
    return CameraTopics(rgb, thermal, depth, _info(recording, rgb), _info(recording, thermal))


def fused_topics(recording: Recording) -> set[str]:
    """What a fusion node published: topics beside a FusionStatus, and its debug images."""
    beside = {
        f"{t.name.rsplit('/', 1)[0]}/{name}"
        for t in recording.topics.values()
        if t.type == STATUS
        for name in ("image", "camera_info", "status")
    }
    return {name for name in recording.topics if name in beside or name.endswith(DEBUG_TOPICS)}


def _info(recording: Recording, image: str) -> str | None:
    name = f"{image.removesuffix('/compressed').rsplit('/', 1)[0]}/camera_info"
    return name if name in recording.topics and recording.topics[name].type == CAMERA_INFO else None


def sounds_thermal(name: str) -> bool:
    """Whether a topic is named as thermal cameras' are."""
    return any(part in name.lower() for part in THERMAL_NAMES)


def _is_thermal(recording: Recording, name: str) -> bool:
    """By name, or by an encoding that only thermal cameras use."""
    if sounds_thermal(name):
        return True
    return (
        first_of(recording, name, lambda msg: getattr(msg, "encoding", "") in THERMAL_ONLY_ENCODINGS) or False
    )


def first_of(recording: Recording, name: str, look: Callable[[Any], Found]) -> Found | None:
    """What `look` says of the first message of a topic that can be decoded; None without one."""
    for message in recording.messages([name]):
        try:
            return look(recording.decode(message))
        except BagError:
            continue
    return None


def _table(recording: Recording, images: set[str]) -> str:
    rows = [(name, recording.topics[name].type, str(recording.topics[name].count)) for name in sorted(images)]
    rows = [("image topic", "type", "messages"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
