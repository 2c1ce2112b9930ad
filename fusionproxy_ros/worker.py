"""The one thread that fuses and publishes, and the mailboxes between it and the callbacks."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from fusionproxy_ros.frames import NS_PER_S, Frame, Pair
from fusionproxy_ros.sync import NearestSync, SyncConfig


def run_in_background(work: Callable, *arguments, urgent: bool = False) -> None:
    """Run `work(*arguments)` in a thread of its own; of low priority unless it is urgent: frames come first."""

    def run():
        if not urgent:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # of this thread only, on Linux
        work(*arguments)

    threading.Thread(target=run, daemon=True).start()


class Lane:
    """One camera pair's sync and mailbox, made by Worker.add_lane; frames in from any thread."""

    def __init__(
        self,
        wake: threading.Condition,
        sync: NearestSync,
        max_latency_ns: int,
        answer: Callable[[Pair], None],
        skip: Callable[[Pair], None],
    ):
        self._wake = wake  # the worker's, which guards everything here
        self.sync, self._max_latency_ns = sync, max_latency_ns
        self.answer, self._skip = answer, skip
        self.ready: deque[Pair] = deque()

    def add_rgb(self, frame: Frame, passthrough_reason: str = "") -> None:
        """As NearestSync.add_rgb."""
        with self._wake:
            self.enqueue(self.sync.add_rgb(frame, passthrough_reason))

    def add_thermal(self, frame: Frame) -> None:
        """As NearestSync.add_thermal."""
        with self._wake:
            self.enqueue(self.sync.add_thermal(frame))

    def add_depth(self, frame: Frame) -> None:
        """As NearestSync.add_depth."""
        with self._wake:
            self.sync.add_depth(frame)

    def configure(self, config: SyncConfig, max_latency_ns: int) -> None:
        """Change the limits from the next decision on."""
        with self._wake:
            self.sync.config, self._max_latency_ns = config, max_latency_ns
            self._wake.notify()

    def enqueue(self, pairs: list[Pair]) -> None:
        """Decided pairs, for the worker; called with the lock held."""
        self.ready.extend(pairs)
        now_ns = time.monotonic_ns()
        if self.ready and self.ready[0].rgb.arrival_ns < now_ns - self._max_latency_ns:
            # Catch up at once: skipping one by one would keep all that follows just as late.
            while len(self.ready) > 1 and self.ready[0].rgb.arrival_ns < now_ns - self._max_latency_ns // 2:
                self._skip(self.ready.popleft())
        self._wake.notify()


class Worker:
    """One thread for any number of lanes: of all pairs that are decided, the one whose RGB frame came first is next."""

    def __init__(self):
        self._wake = threading.Condition()  # guards everything here and in the lanes
        self._lanes: list[Lane] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="fusion worker", daemon=True)
        self._thread.start()

    def add_lane(
        self,
        sync: NearestSync,
        max_latency_ns: int,
        answer: Callable[[Pair], None],
        skip: Callable[[Pair], None],
    ) -> Lane:
        """Frames into the lane, decided pairs out to `answer` in the worker's thread, in order, by their deadline.

        sync: decides the pairs; owned by the lane from here on.
        max_latency_ns: overload. When the lane's oldest pair has an RGB frame that arrived longer ago, all that arrived
            more than half of it ago go to `skip`, but for the newest pair; so the mailbox holds no more than arrives in
            that time.
        answer: must not raise. skip: called with the lock held; must be quick.
        """
        with self._wake:
            self._lanes.append(Lane(self._wake, sync, max_latency_ns, answer, skip))
            return self._lanes[-1]

    def reset(self) -> None:
        """The clock jumped: as NearestSync.reset, of every lane."""
        with self._wake:
            for lane in self._lanes:
                lane.enqueue(lane.sync.reset(time.monotonic_ns()))

    def stop(self) -> None:
        """End the thread after the pair in hand; what waits is forgotten."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _take(self) -> tuple[Lane, Pair] | None:
        """The next pair, when there is one; None when stopping."""
        with self._wake:
            while not self._stopping:
                now_ns = time.monotonic_ns()
                for lane in self._lanes:
                    lane.enqueue(lane.sync.poll(now_ns))
                if waiting := [lane for lane in self._lanes if lane.ready]:
                    lane = min(waiting, key=lambda lane: lane.ready[0].rgb.arrival_ns)
                    return lane, lane.ready.popleft()
                due_ns = [lane.sync.next_deadline_ns for lane in self._lanes]
                due_ns = min((ns for ns in due_ns if ns is not None), default=None)
                self._wake.wait(None if due_ns is None else max(0, due_ns - now_ns) / NS_PER_S)

    def _work(self) -> None:
        while taken := self._take():
            lane, pair = taken
            lane.answer(pair)
