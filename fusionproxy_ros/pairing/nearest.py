"""Pairs stamped streams: nearest match, offset, deadline, hold, drop-out, clock jump.

Integer nanoseconds throughout and no clock of its own: time passes only by the arrival_ns of frames and by poll().
"""

from collections import deque
from dataclasses import dataclass

from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.pairing.frozen_thermal import FrozenThermalDetector
from fusionproxy_ros.pairing.settings import SyncSettings

THERMAL_BUFFER = 32  # frames; bounds memory whatever the stamps do
DEPTH_BUFFER = 8
SAME_PASS_NS = 1_000_000_000  # stamps further apart than this are of different passes of a bag


@dataclass(frozen=True, eq=False)
class _Waiting:
    frame: Frame
    reason: str  # non-empty: pass it through for this reason, without looking for thermal


class NearestSync:
    """Answers every RGB frame exactly once, in the order of arrival, with the nearest thermal frame.

    A frame is decided as soon as a thermal frame at or after its stamp is here (thermal arrives in stamp order, so
    nothing nearer can follow), at the latest deadline_ns after its arrival. Each call returns the pairs that it
    decided. A stamp that goes back is a clock jump (looped bag, reset clock): frames that wait are decided with
    what is here, thermal frames from after the new stamp are forgotten, and the epoch grows.

    It has no lock. Where several threads share it (CameraQueue), one lock guards all calls but `why_not_live`, and one
    thread alone makes those, and enters frames and resets: the detector belongs to that thread.
    """

    def __init__(self, config: SyncSettings):
        self.config = config
        self.epoch = 0
        self._waiting: deque[_Waiting] = deque()
        self._thermal: deque[Frame] = deque(maxlen=THERMAL_BUFFER)  # ascending stamps
        self._depth: deque[Frame] = deque(maxlen=DEPTH_BUFFER)
        self._last_rgb_ns: int | None = None
        self._last_thermal_ns: int | None = None  # of all, also of those that did not count
        self._frozen_thermal = FrozenThermalDetector()
        self._not_live = ""  # why the last thermal frame did not count

    def add_rgb(self, frame: Frame, passthrough_reason: str = "") -> list[Pair]:
        """Enter an RGB frame. With a reason it is passed through in its turn; its stamp is then not trusted."""
        pairs = []
        if not passthrough_reason:
            if self._last_rgb_ns is not None and frame.stamp_ns < self._last_rgb_ns:
                pairs = self._jump(self._target_ns(frame), frame.arrival_ns)
                self._frozen_thermal = FrozenThermalDetector()
            self._last_rgb_ns = frame.stamp_ns
        self._waiting.append(_Waiting(frame, passthrough_reason))
        return pairs + self.poll(frame.arrival_ns)

    def why_not_live(self, thermal: Frame) -> str:
        """Why the thermal frame that is entered next shows nothing new; empty when it does.

        It looks at whole images, so hold no lock meanwhile that others wait for.
        """
        frozen_after_ns = self.config.frozen_after_ns
        return self._frozen_thermal.check(thermal, frozen_after_ns) if frozen_after_ns else ""

    def add_thermal(self, frame: Frame, not_live: str = "") -> list[Pair]:
        """Enter a thermal frame. not_live: of `why_not_live`; with a reason the frame does not count."""
        pairs = []
        if self._last_thermal_ns is not None and frame.stamp_ns < self._last_thermal_ns:
            if self._rgb_has_jumped_to(frame.stamp_ns):  # what waits, waits for this frame
                self._forget_thermal_after(frame.stamp_ns)
            else:
                pairs = self._jump(frame.stamp_ns, frame.arrival_ns)
        self._last_thermal_ns = frame.stamp_ns
        self._not_live = not_live
        if not not_live:
            self._thermal.append(frame)
        return pairs + self.poll(frame.arrival_ns)

    def add_depth(self, frame: Frame) -> None:
        """Enter a depth image, stamped by the RGB camera's clock; it decides nothing."""
        self._depth.append(frame)

    def poll(self, now_ns: int) -> list[Pair]:
        """Decide every frame that can be or must be decided at `now_ns`."""
        pairs = []
        while self._waiting and self._is_decidable(self._waiting[0], now_ns):
            pairs.append(self._decide(self._waiting.popleft(), now_ns))
        return pairs

    def reset(self, now_ns: int) -> list[Pair]:
        """The clock jumped: decide what waits, then forget every thermal frame."""
        pairs = self._jump(None, now_ns)
        self._frozen_thermal = FrozenThermalDetector()
        self._last_rgb_ns = None
        return pairs

    @property
    def next_deadline_ns(self) -> int | None:
        """When poll() must be called at the latest; None while nothing waits."""
        return self._waiting[0].frame.arrival_ns + self.config.deadline_ns if self._waiting else None

    def _target_ns(self, frame: Frame) -> int:
        return frame.stamp_ns + self.config.thermal_time_offset_ns

    def _is_decidable(self, waiting: _Waiting, now_ns: int) -> bool:
        return (
            bool(waiting.reason)
            or now_ns >= waiting.frame.arrival_ns + self.config.deadline_ns
            # Further ahead it is from before a jump, and says nothing of what is still to come.
            or (
                self._last_thermal_ns is not None
                and 0 <= self._last_thermal_ns - self._target_ns(waiting.frame) <= SAME_PASS_NS
            )
        )

    def _decide(self, waiting: _Waiting, now_ns: int) -> Pair:
        rgb, reason = waiting.frame, waiting.reason
        thermal, mode = None, Mode.PASSTHROUGH
        target_ns = self._target_ns(rgb)
        if not reason:
            thermal, mode, reason = self._choose(target_ns)
        skew_ns = thermal.stamp_ns - target_ns if thermal else 0
        age_ns = target_ns - self._thermal[-1].stamp_ns if self._thermal else None
        depth = self._nearest_depth(rgb.stamp_ns) if thermal else None
        return Pair(rgb, thermal, mode, reason, skew_ns, age_ns, depth, self.epoch, now_ns)

    def _nearest_depth(self, stamp_ns: int) -> Frame | None:
        near = [f for f in self._depth if abs(f.stamp_ns - stamp_ns) <= self.config.depth_tolerance_ns]
        return min(near, key=lambda frame: abs(frame.stamp_ns - stamp_ns), default=None)

    def _choose(self, target_ns: int) -> tuple[Frame | None, Mode, str]:
        if not self._thermal:
            return None, Mode.PASSTHROUGH, self._not_live or "no thermal frame received"
        nearest = min(self._thermal, key=lambda frame: abs(frame.stamp_ns - target_ns))
        if abs(nearest.stamp_ns - target_ns) <= self.config.tolerance_ns:
            return nearest, Mode.FUSED, ""
        past = [frame for frame in self._thermal if frame.stamp_ns <= target_ns]
        if not past:
            return None, Mode.PASSTHROUGH, "thermal stamps are ahead of RGB: set thermal_time_offset_s"
        if target_ns - past[-1].stamp_ns <= self.config.max_hold_ns:
            return past[-1], Mode.HELD, self._not_live or "no thermal frame within sync_tolerance_s"
        return None, Mode.PASSTHROUGH, self._not_live or "last thermal frame is older than max_hold_s"

    def _jump(self, to_ns: int | None, now_ns: int) -> list[Pair]:
        pairs = [self._decide(waiting, now_ns) for waiting in self._waiting]
        self._waiting.clear()
        self._forget_thermal_after(to_ns)
        self._depth.clear()
        self.epoch += 1
        return pairs

    def _rgb_has_jumped_to(self, thermal_ns: int) -> bool:
        """Whether a thermal stamp that goes back is the other half of a jump that RGB has made already."""
        if self._last_rgb_ns is None:
            return False
        return abs(self._last_rgb_ns + self.config.thermal_time_offset_ns - thermal_ns) <= SAME_PASS_NS

    def _forget_thermal_after(self, to_ns: int | None) -> None:
        kept = [] if to_ns is None else [frame for frame in self._thermal if frame.stamp_ns <= to_ns]
        self._thermal = deque(kept, maxlen=THERMAL_BUFFER)
        self._last_thermal_ns = self._thermal[-1].stamp_ns if self._thermal else None
        self._not_live = ""
