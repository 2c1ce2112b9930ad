"""What the node knows of its own health: counters, rates and latencies -> FusionStatus and /diagnostics levels."""

import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from fusionproxy_ros.alignment.drift import Misalignment
from fusionproxy_ros.core.frames import NS_PER_S, OUTPUT_MODES, Mode
from fusionproxy_ros.pipeline.answers import HANGS, Answer
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.pipeline.status import Counts, describe_answer, describe_message

FusionStatus: Any = None  # where the generated message is absent: /diagnostics alone tells
with suppress(ImportError):
    from fusionproxy_ros import msg

    FusionStatus = msg.FusionStatus

RATE_WINDOW_S = 2.0
# Fewer images than this share of what the camera offers is loss on the way, not jitter.
LOSS_SHARE = 0.9
CLOCKS_DIFFER_S = 0.1  # no camera pair's delays differ by more
CLOCK_WINDOW = 60  # images; an offset that drifts is followed


class Rate:
    """Arrivals within the last RATE_WINDOW_S seconds."""

    def __init__(self):
        self._arrivals_ns: deque[int] = deque()
        self.count = 0

    def tick(self, now_ns: int, times: int = 1) -> None:
        self.count += times
        self._arrivals_ns.extend([now_ns] * times)

    def hz(self, now_ns: int) -> float:
        while self._arrivals_ns and self._arrivals_ns[0] < now_ns - RATE_WINDOW_S * NS_PER_S:
            self._arrivals_ns.popleft()
        return len(self._arrivals_ns) / RATE_WINDOW_S


class ClockOffset:
    """How far a camera's stamps lie from the time of their arrival, over the last CLOCK_WINDOW images."""

    def __init__(self):
        self._ahead_ns: deque[int] = deque(maxlen=CLOCK_WINDOW)

    def add(self, stamp_ns: int, arrival_ns: int) -> None:
        self._ahead_ns.append(stamp_ns - arrival_ns)

    @property
    def offset_ns(self) -> int | None:
        """Of the image that arrived fastest; None before the first."""
        return max(self._ahead_ns, default=None)


@dataclass
class InputHealth:
    """One camera's topic as the node sees it. `incompatible` is the name of a QoS policy that cannot be met."""

    topic: str
    images: Rate = field(default_factory=Rate)
    infos: Rate = field(default_factory=Rate)
    losses: Rate = field(default_factory=Rate)  # images the middleware knows it lost
    clock: ClockOffset = field(default_factory=ClockOffset)
    subscribed_ns: int = 0
    refused: int = 0
    last_refusal: str = ""
    reliability: str = ""
    incompatible: str = ""

    def refuse(self, reason: str) -> None:
        """Count a message that could not be used."""
        self.refused += 1
        self.last_refusal = reason

    def diagnose(self, publishers: int, now_ns: int, profile: str) -> DiagnosticStatus:
        """Level and cure, from the symptoms; `profile` is the path of the shipped Fast DDS profile."""
        hz, info_hz, lost_hz = (rate.hz(now_ns) for rate in (self.images, self.infos, self.losses))
        settled = now_ns - self.subscribed_ns > RATE_WINDOW_S * NS_PER_S
        starved = hz == 0 or hz < LOSS_SHARE * max(info_hz, hz + lost_hz)
        level, message = DiagnosticStatus.OK, f"{hz:.1f} Hz"
        if self.incompatible:
            level = DiagnosticStatus.ERROR
            message = (
                f"{self.topic}: a publisher's QoS policy {self.incompatible} is incompatible with this node's: "
                f"set the parameter reliability to auto or change the publisher"
            )
        elif settled and not publishers:
            level = DiagnosticStatus.ERROR
            message = f"{self.topic}: no publisher: start the camera or remap the topic"
        elif settled and starved:
            level = DiagnosticStatus.ERROR
            cause = (
                "Fast DDS loses large best-effort images with its default shared-memory segment: have the driver "
                "publish reliable, or"
                if self.reliability == "BEST_EFFORT"
                else "Does the camera stream? Large images also stall in Fast DDS's default shared-memory segment:"
            )
            message = (
                f"{self.topic}: a publisher is there and frames are missing ({hz:.1f} images/s, {info_hz:.1f} "
                f"camera_info/s, {lost_hz:.1f} lost/s, {self.reliability}). {cause} start its driver with "
                f"FASTDDS_DEFAULT_PROFILES_FILE={profile} (FASTRTPS_DEFAULT_PROFILES_FILE on Jazzy)"
            )
        elif self.last_refusal:
            level, message = DiagnosticStatus.WARN, f"{self.topic}: {self.last_refusal}"
        values = {
            "rate_hz": f"{hz:.1f}",
            "camera_info_rate_hz": f"{info_hz:.1f}",
            "publishers": publishers,
            "reliability": self.reliability,
            "received": self.images.count,
            "refused": self.refused,
            "lost": self.losses.count,
        }
        self.last_refusal = ""
        return _status(level, self.topic, message, values)


class Health:
    """One camera pair's counters since configure, and what the last second's outputs were.

    Written by the executor's thread (what arrives and is refused) and by the worker's threads, one at a time (what is
    answered or skipped). That needs no lock: each counter and each mode is written by one side, `_recent` is appended
    to and taken away whole, and `error` is the last that either side had. name: of the cameras, in diagnostics.
    """

    def __init__(self, rgb_topic: str, thermal_topic: str, depth_topic: str = "", name: str = "fusion"):
        self._name = name
        self.rgb, self.thermal = InputHealth(rgb_topic), InputHealth(thermal_topic)
        self.depth = InputHealth(depth_topic) if depth_topic else None
        self._inputs = [one for one in (self.rgb, self.thermal, self.depth) if one]
        self.topics = [one.topic for one in self._inputs]
        self.modes: Counter[int] = Counter()
        self._recent: list[tuple[int, str, float]] = []  # (mode, reason, total_s) since the last diagnosis
        self._range, self._contrast = (0.0, 0.0), 1.0
        self._misalignment: Misalignment | None = None  # the latest estimate
        self.error = ""  # of the worker, until the next diagnosis

    @property
    def clock_offset_s(self) -> float:
        """Thermal clock minus RGB clock, as far as arrivals tell: the difference of the cameras' delays is in it."""
        thermal_ns, rgb_ns = self.thermal.clock.offset_ns, self.rgb.clock.offset_ns
        return math.nan if thermal_ns is None or rgb_ns is None else (thermal_ns - rgb_ns) / NS_PER_S

    def answered(
        self, answer: Answer, misalignment: Misalignment | None, published_ns: int, end_ns: int
    ) -> Any:
        """Count one output and describe it: a FusionStatus, or None where that message is not installed.

        misalignment: the latest estimate. published_ns: when publishing began; end_ns: when it was done.
        """
        pair, fused = answer.pair, answer.fused
        arrivals = [pair.rgb.arrival_ns] + ([pair.thermal.arrival_ns] if pair.thermal else [])
        total_s = (end_ns - max(arrivals)) / NS_PER_S
        self.modes[fused.mode] += 1
        self._recent.append((fused.mode, fused.reason, total_s))
        self._misalignment = misalignment
        if fused.reason == HANGS:
            self.error = HANGS
        if fused.thermal is not None:
            self._range, self._contrast = fused.thermal_range, fused.thermal_contrast
        if FusionStatus is None:
            return None
        status = describe_answer(FusionStatus(), answer, self._counts())
        if misalignment:
            status.misalignment_x_px, status.misalignment_y_px = misalignment.shift_px
        status.clock_offset_s = self.clock_offset_s
        status.queue_s = (answer.start_ns - pair.ready_ns) / NS_PER_S
        status.publish_s = (end_ns - published_ns) / NS_PER_S
        status.total_s = total_s
        return status

    def unanswered(self, header: Header, mode: Mode, reason: str) -> Any:
        """Count an RGB message without an output (REFUSED or DROPPED) and describe it, as `answered` does."""
        self.modes[mode] += 1
        if mode is Mode.REFUSED:
            self.rgb.refuse(reason)
        self._recent.append((mode, reason, math.nan))
        if FusionStatus is None:
            return None
        return describe_message(FusionStatus(), header, mode, reason, self._counts())

    def _counts(self) -> Counts:
        return Counts(self.rgb.images.count, self.thermal.images.count, self.thermal.refused, self.modes)

    def diagnose(
        self,
        publishers: dict[str, int],
        profile: str,
        settings: Settings,
        fuser_error: str,
        idle: bool,
    ) -> list[DiagnosticStatus]:
        """The state since the last call, for /diagnostics. publishers: topic -> publishers now.

        fuser_error: of a fuser that is to be built again. idle: nobody listens, so nothing is listened to.
        """
        if idle:
            message = "idle: nobody subscribes to fused/image or fused/status"
            return [_status(DiagnosticStatus.OK, self._name, message, {})]
        now_ns = time.monotonic_ns()
        inputs = [one.diagnose(publishers[one.topic], now_ns, profile) for one in self._inputs]
        recent, self._recent = self._recent, []
        modes = Counter(mode for mode, _, _ in recent)
        reasons = Counter(reason for _, reason, _ in recent if reason)
        level, message = DiagnosticStatus.OK, "fusing"
        warnings = list(self._warnings(modes, reasons, settings))
        if error := self.error or fuser_error:
            level, message = DiagnosticStatus.ERROR, error
        elif not recent:
            level, message = DiagnosticStatus.ERROR, "no output: no RGB frame arrived"
        elif warnings:
            level, message = DiagnosticStatus.WARN, "; ".join(warnings)
        self.error = ""
        values: dict[str, Any] = {f"{mode.name.lower()}_last_second": modes[mode] for mode in OUTPUT_MODES}
        values |= {"dropped": self.modes[Mode.DROPPED], "refused": self.modes[Mode.REFUSED]}
        values |= {"thermal_low": self._range[0], "thermal_high": self._range[1]}
        values["thermal_contrast"] = f"{self._contrast:.2f}"
        values["clock_offset_s"] = f"{self.clock_offset_s:.3f}"
        if self._misalignment:
            values["misalignment_px"] = "{:+.1f}, {:+.1f}".format(*self._misalignment.shift_px)
            values["misalignment_spread_px"] = f"{self._misalignment.spread_px:.1f}"
        latencies_ms = [1e3 * total_s for _, _, total_s in recent if total_s == total_s]
        if latencies_ms:
            p50, p99 = np.percentile(latencies_ms, (50, 99))
            values |= {"latency_p50_ms": f"{p50:.1f}", "latency_p99_ms": f"{p99:.1f}"}
        return [_status(level, self._name, message, values), *inputs]

    def _warnings(self, modes: Counter, reasons: Counter, settings: Settings) -> Iterator[str]:
        if reasons:
            every = "not every frame was fused" if modes[Mode.FUSED] < modes.total() else "fusing"
            yield f"{every}: {reasons.most_common(1)[0][0]}"
        if abs(self.clock_offset_s - settings.sync.thermal_time_offset_s) > CLOCKS_DIFFER_S:
            yield (
                f"the clocks differ by about {self.clock_offset_s:.2f} s and thermal_time_offset_s is "
                f"{settings.sync.thermal_time_offset_s}: set it, or thermal is fused with the wrong moment"
            )
        if self._misalignment and 0 < settings.drift.warn_px < self._misalignment.size_px:
            dx, dy = self._misalignment.shift_px
            yield (
                f"thermal lies ({dx:+.1f}, {dy:+.1f}) px off RGB: calibrate again (fusionproxy calibrate), or let "
                "registration.refine_max_px correct it"
            )


def _status(level: bytes, name: str, message: str, values: dict) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=f"fusionproxy: {name}", message=message, hardware_id="", values=pairs
    )
