"""`sync_policy: approximate_time | exact_time`: ROS's own message_filters choose, under our deadline, hold and order.

message_filters is imported late: only who asks for it needs it.
"""

from types import SimpleNamespace

from rclpy.duration import Duration
from rclpy.time import Time

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pairing.settings import SyncSettings

FILTER_QUEUE = 30  # frames of each topic that message_filters keeps


def make_sync(settings: SyncSettings) -> NearestSync:
    """What pairs frames as `settings.policy` says. Raises FusionError where message_filters is missing."""
    return NearestSync(settings) if settings.policy == "nearest" else FilteredSync(settings)


class FilteredSync(NearestSync):
    """FUSED are the pairs of message_filters alone; what it leaves over by the deadline is HELD or passed through."""

    def __init__(self, settings: SyncSettings):
        try:
            import message_filters as filters
        except ImportError as error:
            raise FusionError(
                f"sync_policy is {settings.policy}, but message_filters cannot be imported ({error}): "
                "apt install ros-$ROS_DISTRO-message-filters, or set sync_policy to nearest"
            ) from error
        self._filters, self._exact = filters, settings.policy == "exact_time"
        super().__init__(settings)
        self._start()

    def _start(self) -> None:
        """A synchroniser without a past: after a jump back message_filters would keep what came before it."""
        self._partners: dict[int, Frame] = {}  # stamp of RGB on the thermal clock -> thermal frame
        self._inputs = [self._filters.SimpleFilter() for _ in range(2)]
        kind = self._filters.TimeSynchronizer if self._exact else self._filters.ApproximateTimeSynchronizer
        self._filter = kind(self._inputs, FILTER_QUEUE, *([] if self._exact else [0.0]))
        self._filter.registerCallback(self._on_pair)

    def _on_pair(self, rgb, thermal) -> None:
        if any(waiting.frame is rgb.frame for waiting in self._waiting):  # else it came too late
            self._partners[rgb.ns] = thermal.frame

    def add_rgb(self, frame: Frame, passthrough_reason: str = "") -> list[Pair]:
        pairs = super().add_rgb(frame, passthrough_reason)
        return pairs if passthrough_reason else pairs + self._offer(0, frame, self._target_ns(frame))

    def add_thermal(self, frame: Frame, not_live: str = "") -> list[Pair]:
        pairs = super().add_thermal(frame, not_live)
        return pairs if not_live else pairs + self._offer(1, frame, frame.stamp_ns)

    def _offer(self, index: int, frame: Frame, ns: int) -> list[Pair]:
        self._filter.slop = Duration(
            nanoseconds=self.config.tolerance_ns
        )  # it may change while the node runs
        if ns >= 0:  # rclpy knows no other time
            stamp = Time(nanoseconds=ns).to_msg()
            message = SimpleNamespace(header=SimpleNamespace(stamp=stamp), ns=ns, frame=frame)
            self._inputs[index].signalMessage(message)
        return self.poll(frame.arrival_ns)

    def _is_decidable(self, waiting, now_ns: int) -> bool:
        due_ns = waiting.frame.arrival_ns + self.config.deadline_ns
        return bool(waiting.reason) or now_ns >= due_ns or self._target_ns(waiting.frame) in self._partners

    def _choose(self, target_ns: int) -> tuple[Frame | None, Mode, str]:
        if partner := self._partners.pop(target_ns, None):
            return partner, Mode.FUSED, ""
        thermal, mode, reason = super()._choose(target_ns)
        return (
            (thermal, Mode.HELD, "message_filters found no pair")
            if mode is Mode.FUSED
            else (thermal, mode, reason)
        )

    def _jump(self, to_ns: int | None, now_ns: int) -> list[Pair]:
        pairs = super()._jump(to_ns, now_ns)
        self._start()
        return pairs
