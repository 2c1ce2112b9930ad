"""When each message of a recording is due, under rate, pause and loop, and how late messages went out."""

from collections import Counter
from fractions import Fraction

LATE_NS = 10_000_000  # a third of a frame at 30 Hz: later than that is counted


class Schedule:
    """Bag time and the caller's monotonic time, both in integer ns, each as a function of the other.

    Both follow from one anchor and an exact rate, so that nothing drifts. It has no clock of its own.
    """

    def __init__(self, rate: float = 1.0, paused: bool = False):
        self.paused = paused
        self._rate = Fraction(rate)
        self._bag_ns = self._now_ns = 0  # the anchor

    def start(self, bag_ns: int, now_ns: int) -> None:
        """A pass begins: it is bag_ns now. What was paused stays so."""
        self._bag_ns, self._now_ns = bag_ns, now_ns

    def pause(self, now_ns: int) -> None:
        self.start(self.bag_ns(now_ns), now_ns)
        self.paused = True

    def resume(self, now_ns: int) -> None:
        self.start(self.bag_ns(now_ns), now_ns)
        self.paused = False

    def bag_ns(self, now_ns: int) -> int:
        """Which bag time it is."""
        if self.paused:
            return self._bag_ns
        return self._bag_ns + (now_ns - self._now_ns) * self._rate.numerator // self._rate.denominator

    def due_ns(self, bag_ns: int) -> int | None:
        """The first moment at which it is bag_ns or later; None while paused."""
        if self.paused:
            return None
        return self._now_ns - (self._bag_ns - bag_ns) * self._rate.denominator // self._rate.numerator


class Ticks:
    """Even ticks; those that were missed are left out, never made up for in a burst."""

    def __init__(self, hz: float):
        self._period_ns = max(1, round(1_000_000_000 / hz))
        self.next_ns = 0

    def take(self, now_ns: int) -> bool:
        """Whether a tick is due; if so the next one is set."""
        if now_ns < self.next_ns:
            return False
        self.next_ns += self._period_ns
        if self.next_ns <= now_ns:  # the first, or after a stall
            self.next_ns = now_ns + self._period_ns
        return True


class Tally:
    """What went out, by topic, and how late."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.late = 0
        self.worst_ns = 0

    def add(self, topic: str, late_ns: int) -> None:
        self.sent[topic] += 1
        self.late += late_ns > LATE_NS
        self.worst_ns = max(self.worst_ns, late_ns)

    def __str__(self) -> str:
        return (
            f"{self.sent.total()} messages, {self.late} of them more than {LATE_NS / 1e6:g} ms late "
            f"(the worst {self.worst_ns / 1e6:.1f} ms)"
        )
