"""Streams of two cameras as they arrive, random or looped, and what pairs their frames: ours and message_filters.

Streams are random in rate, jitter, drops, phase and delay. Times are integer ns; a frame never overtakes an earlier
one of its topic, as DDS guarantees.
"""

import math
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from fusionproxy_ros.core.frames import Frame

try:
    import message_filters
    from builtin_interfaces.msg import Time
except ImportError:
    message_filters = None

MS, S = 1_000_000, 1_000_000_000
PIXELS = np.zeros((1, 1), np.uint8)
START_NS = 1_000 * S
PATIENT = 1 * S  # a deadline that no delay reaches: the reference waits for ever
QUEUE = 30  # frames of each topic that the reference keeps


def frames(stamps_ns, delays_ns, play_ns=0):
    """A topic. play_ns: when the stream's first moment is played."""
    arrivals_ns = np.maximum.accumulate(stamps_ns - START_NS + play_ns + delays_ns)
    return [Frame(int(s), "", PIXELS, "", int(a)) for s, a in zip(stamps_ns, arrivals_ns, strict=True)]


@st.composite
def topics(draw, seconds=3):
    """A camera that runs freely: 4..60 Hz, jitter below its period, drops, a phase, and delays up to 100 ms."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    period_ns = S / draw(st.floats(4, 60))
    count = math.ceil(seconds * S / period_ns)
    jitter = rng.uniform(0, draw(st.floats(0, 0.9)), count)
    stamps_ns = START_NS + np.round((np.arange(count) + jitter + draw(st.floats(0, 1))) * period_ns).astype(
        int
    )
    stamps_ns = stamps_ns[rng.random(count) >= draw(st.sampled_from((0.0, 0.1, 0.5)))]
    delay_ns, spread_ns = draw(st.integers(0, 50 * MS)), draw(st.integers(1, 50 * MS))
    return frames(stamps_ns, delay_ns + rng.integers(0, spread_ns, len(stamps_ns)))


def arrivals(rgb, thermal):
    """(frame, whether it is RGB) of both topics in the order of arrival."""
    both = [(frame, True) for frame in rgb] + [(frame, False) for frame in thermal]
    return sorted(both, key=lambda each: (each[0].arrival_ns, each[1]))


def ours(sync, rgb, thermal):
    """The pairs of NearestSync, polled as the worker does."""
    pairs = []
    for frame, is_rgb in arrivals(rgb, thermal):
        while (due_ns := sync.next_deadline_ns) is not None and due_ns <= frame.arrival_ns:
            pairs += sync.poll(due_ns)
        pairs += sync.add_rgb(frame) if is_rgb else sync.add_thermal(frame)
    while (due_ns := sync.next_deadline_ns) is not None:
        pairs += sync.poll(due_ns)
    return pairs


class Reference:
    """message_filters.ApproximateTimeSynchronizer, fed by hand."""

    def __init__(self, slop_ns):
        self._inputs = [message_filters.SimpleFilter() for _ in range(2)]
        sync = message_filters.ApproximateTimeSynchronizer(self._inputs, QUEUE, slop_ns / S)
        sync.registerCallback(lambda *pair: self._pairs.append(tuple(msg.stamp_ns for msg in pair)))
        self._pairs = []

    def run(self, rgb, thermal):
        """(RGB stamp, thermal stamp) of its pairs."""
        self._pairs.clear()
        for frame, is_rgb in arrivals(rgb, thermal):
            sec, nanosec = divmod(frame.stamp_ns, S)
            header = SimpleNamespace(stamp=Time(sec=sec, nanosec=nanosec))
            self._inputs[not is_rgb].signalMessage(SimpleNamespace(header=header, stamp_ns=frame.stamp_ns))
        return list(self._pairs)


slops = st.integers(1, 120).map(lambda ms: ms * MS)


def looped(gap_ns, seed, thermal_lag_ns=8 * MS, thermal_hz=25, passes=10, seconds=4):
    """RGB at 30 Hz and thermal as subscriptions see them: the same stamps in each pass, delays as they come.

    thermal_lag_ns: how much later than stamped a thermal frame comes, at least.
    Returns both topics and how many RGB frames a pass has.
    """
    rng, topics = np.random.default_rng(seed), []
    for phase_ns, period_ns, lag_ns, spread_ns in (
        (0, 33_333_334, 5 * MS, 10 * MS),
        (7 * MS, S // thermal_hz, thermal_lag_ns, 15 * MS),
    ):
        stamps_ns = START_NS + np.arange(phase_ns, seconds * S, period_ns)
        topic = []
        for number in range(passes):
            delays_ns = lag_ns + rng.integers(0, spread_ns, len(stamps_ns))
            topic += frames(stamps_ns, delays_ns, number * (seconds * S + gap_ns))
        topics.append((topic, len(stamps_ns)))
    (rgb, length), (thermal, _) = topics
    return rgb, thermal, length


def passes_of(pairs, length):
    """What each pass of the bag gave: (RGB stamp, mode, skew) of its pairs."""
    told = [(pair.rgb.stamp_ns, pair.mode, pair.skew_ns) for pair in pairs]
    return [told[i : i + length] for i in range(0, len(told), length)]
