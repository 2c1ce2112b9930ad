"""The images of chosen moments of a recording, and which of its topics holds them."""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fusionproxy_ros.bags.camera_topics import COMPRESSED, DEBUG_TOPICS, IMAGE, sounds_thermal
from fusionproxy_ros.bags.recording import Message, Recording
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.core.frames import NS_PER_S, Frame, Mode
from fusionproxy_ros.core.image_messages import MessageError, read_rgb, read_thermal
from fusionproxy_ros.core.pictures import spread
from fusionproxy_ros.report.status_table import Statuses

REGISTERED = DEBUG_TOPICS[0]
# A moment's images are looked for from so long before its status, beyond its own latency, to so long after it.
BEFORE_NS, AFTER_NS = NS_PER_S // 4, NS_PER_S
PROBES = 4  # moments at which it is found out which topic is which


@dataclass(frozen=True)
class Roles:
    """Topic of each kind of image; None where the recording has none."""

    fused: str | None = None
    rgb: str | None = None
    thermal: str | None = None
    registered: str | None = None

    def wanted(self, statuses: Statuses, index: int) -> dict[tuple[str, int], str]:
        """What is to be read of a frame: topic and stamp -> kind."""
        stamp_ns, thermal_ns = int(statuses.stamp_ns[index]), int(statuses.thermal_ns[index])
        kinds = {(self.rgb, stamp_ns): "rgb"}
        if statuses.mode[index] <= Mode.PASSTHROUGH:
            kinds[self.fused, stamp_ns] = "fused"
        if statuses.mode[index] <= Mode.HELD:
            kinds |= {(self.registered, stamp_ns): "registered", (self.thermal, thermal_ns): "thermal"}
        return {(topic, stamp): kind for (topic, stamp), kind in kinds.items() if topic}


def images_at(
    recording: Recording, roles: Roles, statuses: Statuses, indices: Iterable[int]
) -> Iterator[tuple[int, dict[str, Frame]]]:
    """The readable images of each frame by kind, named as in Roles."""
    for index in sorted(indices):
        missing, found = roles.wanted(statuses, index), {}
        for message in _near(recording, statuses, index, {topic for topic, _ in missing}):
            kind = missing.pop((message.topic.name, _stamp_ns(message.data)), None)
            if kind:
                try:
                    read = read_thermal if kind in ("thermal", "registered") else read_rgb
                    found[kind] = read(recording.decode(message))
                except (BagError, MessageError):
                    pass  # the page says that there is none
            if not missing:
                break
        yield index, found


def _near(recording: Recording, statuses: Statuses, index: int, names: set[str]) -> Iterator[Message]:
    """Messages that were recorded when a frame's images were."""
    if not names:
        return
    own_s = sum(np.nan_to_num(np.abs(statuses[name][index])) for name in ("sync_wait_s", "total_s", "skew_s"))
    log_ns = int(statuses.log_ns[index])
    for message in recording.messages(names, max(log_ns - BEFORE_NS - int(min(own_s, 10) * NS_PER_S), 0)):
        if message.log_ns > log_ns + AFTER_NS:
            return
        yield message


def _stamp_ns(data: bytes) -> int:
    """Of a serialised message that begins with a std_msgs/Header, without decoding the rest; -1: too short."""
    if len(data) < 12:
        return -1
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return sec * NS_PER_S + nanosec


def find_roles(recording: Recording, status_topic: str, statuses: Statuses) -> Roles:
    """Which topic is which: by name where the node gave the names, else by whose stamps agree with the statuses.

    Unlike camera_topics.choose_topics this is settled where a vehicle has several cameras.
    """
    images = {topic.name for topic in recording.topics.values() if topic.type in (IMAGE, COMPRESSED)}
    beside = status_topic.rpartition("/")[0] + "/image"
    outputs = [name for name in (beside, beside + "/compressed") if name in images]
    cameras = {n for n in images.difference(outputs) if "/debug/" not in n and "depth" not in n.lower()}
    of_rgb, of_thermal, grey = _agreements(recording, statuses, cameras)
    candidates = [name for name in grey if grey[name] and of_thermal[name]]
    thermal = min(candidates, key=lambda n: (-of_thermal[n], not sounds_thermal(n), n), default=None)
    # A monochrome camera may stand in the place of the RGB one.
    candidates = [name for name in grey if of_rgb[name] and name != thermal]
    rgb = min(candidates, key=lambda n: (grey[n], sounds_thermal(n), -of_rgb[n], n), default=None)
    registered = min((name for name in images if name.endswith(REGISTERED)), default=None)
    return Roles(outputs[0] if outputs else None, rgb, thermal, registered)


def _agreements(
    recording: Recording, statuses: Statuses, cameras: set[str]
) -> tuple[Counter[str], Counter[str], dict[str, bool]]:
    """Of each camera: how often its stamp was that of a status, and the thermal one of a status; is it grey?

    An unreadable one is not in the third.
    """
    of_rgb, of_thermal = Counter[str](), Counter[str]()
    grey: dict[str, bool | None] = {}
    with_thermal = statuses.with_thermal
    probed = with_thermal if with_thermal.size else np.arange(len(statuses))
    for index in spread(probed.tolist(), PROBES):
        for message in _near(recording, statuses, index, cameras):
            name, stamp_ns = message.topic.name, _stamp_ns(message.data)
            of_rgb[name] += stamp_ns == int(statuses.stamp_ns[index])
            of_thermal[name] += stamp_ns == int(statuses.thermal_ns[index])
            if name not in grey and of_rgb[name] + of_thermal[name]:
                grey[name] = _is_grey(recording, message)
    return of_rgb, of_thermal, {name: is_grey for name, is_grey in grey.items() if is_grey is not None}


def _is_grey(recording: Recording, message: Message) -> bool | None:
    """One channel, or three; None: unreadable."""
    for read, grey in ((read_thermal, True), (read_rgb, False)):
        try:
            read(recording.decode(message))
            return grey
        except (BagError, MessageError):
            continue
    return None
