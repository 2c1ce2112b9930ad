"""Which moments of a recording are worst, and the images of chosen moments."""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fusionproxy_ros.bags import BagError, verdict
from fusionproxy_ros.bags.page import duration, seconds
from fusionproxy_ros.bags.recording import Message, Recording
from fusionproxy_ros.bags.statuses import STAGES, Statuses
from fusionproxy_ros.bags.topics import COMPRESSED, DEBUG, IMAGE, sounds_thermal
from fusionproxy_ros.distill.data import spread
from fusionproxy_ros.frames import MODES, NS_PER_S, Frame, Mode
from fusionproxy_ros.messages import MessageError, read_rgb, read_thermal

REGISTERED = DEBUG[0]
# A moment's images are looked for from so long before its status, beyond its own latency, to so long after it.
BEFORE_NS, AFTER_NS = NS_PER_S // 4, NS_PER_S
PROBES = 4  # moments at which it is found out which topic is which
WORTH_PX = 2.0  # of misalignment, to be shown
Points = Iterator[tuple[int, str, str]]  # frame, title, explanation


# --- which are worst


def worst_moments(statuses: Statuses, times_s: np.ndarray) -> dict[int, list[tuple[str, str]]]:
    """Frame -> (title, explanation) of what was worst there, in order of time."""
    found = defaultdict(list)
    for find in (_unfused, _without_output, _slow, _skewed, _displaced):
        for index, title, text in find(statuses, times_s):
            found[int(index)].append((title, text))
    return dict(sorted(found.items()))


def _unfused(statuses: Statuses, times_s: np.ndarray) -> Points:
    edges = np.diff((statuses.mode != Mode.FUSED).astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
    if starts.size:
        start, end = (side[np.argmax(ends - starts)] for side in (starts, ends))
        frames = f"{end - start} frames" if end - start > 1 else "One frame"
        middle = (start + end - 1) // 2
        text = f"{frames} from {seconds(times_s[start])} to {seconds(times_s[end - 1])}: "
        yield middle, "Longest time without fresh thermal.", text + verdict.why(statuses.text(middle))


def _without_output(statuses: Statuses, times_s: np.ndarray) -> Points:
    for mode in ("REFUSED", "DROPPED"):
        members = np.flatnonzero(statuses.mode == MODES.index(mode))
        if members.size:
            count = f"One of {members.size} without an output" if members.size > 1 else "It has no output"
            text = f"{count}: {verdict.why(statuses.text(members[0]))}"
            yield members[0], f"First {mode.lower()} frame.", text


def _slow(statuses: Statuses, times_s: np.ndarray) -> Points:
    answered, gaps_s = statuses.answered, statuses.gaps_s
    if gaps_s.size and gaps_s.max() > 1.5 * (usual_s := np.median(gaps_s)):
        text = f"Nothing came for {duration(gaps_s.max())} before this frame; usual are {duration(usual_s)}."
        yield answered[1 + np.argmax(gaps_s)], "Longest gap.", text
    if statuses.is_live:
        total_s = statuses["total_s"]
        index = answered[np.argmax(total_s[answered])]
        stage = max(STAGES, key=lambda name: statuses[name][index])
        text = (
            f"{duration(total_s[index])} from the later input to the end of publishing, "
            f"{duration(statuses[stage][index])} of it {stage.removesuffix('_s')}; the median is "
            f"{duration(np.median(total_s[answered]))}."
        )
        yield index, "Largest latency.", text


def _skewed(statuses: Statuses, times_s: np.ndarray) -> Points:
    skew_s = np.nan_to_num(statuses.fused_skew_s)
    if skew_s.any():
        index = np.argmax(np.abs(skew_s))
        side = "later" if skew_s[index] > 0 else "older"
        usual = duration(np.median(np.abs(skew_s[statuses.mode == Mode.FUSED])))
        text = (
            f"Thermal is {duration(abs(skew_s[index]))} {side} than RGB (median {usual}): what moves is doubled. "
            "sync_tolerance_s bounds it."
        )
        yield index, "Largest skew of a fused frame.", text


def _displaced(statuses: Statuses, times_s: np.ndarray) -> Points:
    """In brightness or in place."""
    thermal = statuses.with_thermal
    low, high = statuses["thermal_low"][thermal], statuses["thermal_high"][thermal]
    if thermal.size > 1 and (width := np.median(high - low)) > 0:
        steps = np.maximum(np.abs(np.diff(low)), np.abs(np.diff(high)))
        at = np.argmax(steps)
        if steps[at] > width / 20:
            before, after = (verdict.window(low[i], high[i]) for i in (at, at + 1))
            text = (
                f"From {before} to {after} counts within a frame: thermal changes its brightness. "
                "normalisation.time_constant_s smooths that, normalisation.mode: fixed rules it out."
            )
            yield thermal[at + 1], "Largest jump of the thermal window.", text
    shift_px = np.nan_to_num(statuses.shift_px)
    index = np.argmax(shift_px)
    if shift_px[index] >= WORTH_PX:
        x, y = (statuses[f"misalignment_{axis}_px"][index] for axis in "xy")
        text = (
            f"Thermal lies ({x:+.1f}, {y:+.1f}) px off RGB: run fusionproxy calibrate, or set "
            "registration.refine_max_px."
        )
        yield index, "Largest misalignment.", text


# --- their images


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

    Unlike topics.choose this is settled where a vehicle has several cameras.
    """
    images = {topic.name for topic in recording.topics.values() if topic.type in (IMAGE, COMPRESSED)}
    beside = status_topic.rpartition("/")[0] + "/image"
    outputs = [name for name in (beside, beside + "/compressed") if name in images]
    cameras = {n for n in images.difference(outputs) if "/debug/" not in n and "depth" not in n.lower()}
    of_rgb, of_thermal = Counter(), Counter()
    grey: dict[str, bool] = {}
    with_thermal = statuses.with_thermal
    for index in spread(with_thermal if with_thermal.size else np.arange(len(statuses)), PROBES):
        for message in _near(recording, statuses, index, cameras):
            name, stamp_ns = message.topic.name, _stamp_ns(message.data)
            of_rgb[name] += stamp_ns == statuses.stamp_ns[index]
            of_thermal[name] += stamp_ns == statuses.thermal_ns[index]
            if name not in grey and of_rgb[name] + of_thermal[name]:
                grey[name] = _is_grey(recording, message)

    candidates = [name for name in grey if grey[name] and of_thermal[name]]
    thermal = min(candidates, key=lambda n: (-of_thermal[n], not sounds_thermal(n), n), default=None)
    # A monochrome camera may stand in the place of the RGB one.
    candidates = [name for name in grey if grey[name] is not None and of_rgb[name] and name != thermal]
    rgb = min(candidates, key=lambda n: (grey[n], sounds_thermal(n), -of_rgb[n], n), default=None)
    registered = min((name for name in images if name.endswith(REGISTERED)), default=None)
    return Roles(outputs[0] if outputs else None, rgb, thermal, registered)


def _is_grey(recording: Recording, message: Message) -> bool | None:
    """One channel, or three; None: unreadable."""
    for read, grey in ((read_thermal, True), (read_rgb, False)):
        try:
            read(recording.decode(message))
            return grey
        except (BagError, MessageError):
            continue
    return None
