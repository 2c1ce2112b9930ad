"""The one thread that fuses and publishes, and the mailbox between it and the callbacks."""

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


class Worker:
    """Frames in from any thread, decided pairs out to `answer` in its own thread, in order, by their deadline.

    sync: decides the pairs; owned by the worker from here on.
    max_latency_ns: overload. When the oldest pair's RGB frame arrived longer ago, all that arrived more than half of it
        ago go to `skip`, but for the newest pair; so the mailbox holds no more than arrives in that time.
    answer: must not raise. skip: called with the lock held; must be quick.
    """

    def __init__(
        self,
        sync: NearestSync,
        max_latency_ns: int,
        answer: Callable[[Pair], None],
        skip: Callable[[Pair], None],
    ):
        self._sync, self._max_latency_ns = sync, max_latency_ns
        self._answer, self._skip = answer, skip
        self._wake = threading.Condition()  # guards everything here
        self._ready: deque[Pair] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="fusion worker", daemon=True)
        self._thread.start()

    def add_rgb(self, frame: Frame, passthrough_reason: str = "") -> None:
        """As NearestSync.add_rgb."""
        with self._wake:
            self._enqueue(self._sync.add_rgb(frame, passthrough_reason))

    def add_thermal(self, frame: Frame) -> None:
        """As NearestSync.add_thermal."""
        with self._wake:
            self._enqueue(self._sync.add_thermal(frame))

    def add_depth(self, frame: Frame) -> None:
        """As NearestSync.add_depth."""
        with self._wake:
            self._sync.add_depth(frame)

    def reset(self) -> None:
        """The clock jumped: as NearestSync.reset."""
        with self._wake:
            self._enqueue(self._sync.reset(time.monotonic_ns()))

    def configure(self, config: SyncConfig, max_latency_ns: int) -> None:
        """Change the limits from the next decision on."""
        with self._wake:
            self._sync.config, self._max_latency_ns = config, max_latency_ns
            self._wake.notify()

    def stop(self) -> None:
        """End the thread after the pair in hand; what waits is forgotten."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _enqueue(self, pairs: list[Pair]) -> None:
        self._ready.extend(pairs)
        now_ns = time.monotonic_ns()
        if self._ready and self._ready[0].rgb.arrival_ns < now_ns - self._max_latency_ns:
            # Catch up at once: skipping one by one would keep all that follows just as late.
            while len(self._ready) > 1 and self._ready[0].rgb.arrival_ns < now_ns - self._max_latency_ns // 2:
                self._skip(self._ready.popleft())
        self._wake.notify()

    def _take(self) -> Pair | None:
        """The next pair, when there is one; None when stopping."""
        with self._wake:
            while not self._stopping:
                now_ns = time.monotonic_ns()
                self._enqueue(self._sync.poll(now_ns))
                if self._ready:
                    return self._ready.popleft()
                due_ns = self._sync.next_deadline_ns
                self._wake.wait(None if due_ns is None else max(0, due_ns - now_ns) / NS_PER_S)

    def _work(self) -> None:
        while (pair := self._take()) is not None:
            self._answer(pair)
