"""The thread that fuses and publishes, its stand-in while fusing stalls, and the mailboxes of the callbacks."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from statistics import median
from typing import Any, Protocol

from fusionproxy_ros.frames import NS_PER_S, Frame, Pair
from fusionproxy_ros.sync import NearestSync, SyncConfig

STALL_SHARE = 4  # fusing that takes longer than this part of max_latency_ns...
STALL_RATIO = 3  # ...and this many times as long as usual stalls
FIRST_SHARE = 2  # before anything is usual, longer than this part: a first frame waits for its lookup grid
RECENT = 15  # frames whose median is usual
LOST_NS = 10 * NS_PER_S  # a worker that hangs for so long is lost, and another takes its place
STOP_S = 0.5  # how long an end waits for the frame in hand


# urgent -> the inboxes of threads that wait for work
_IDLE: dict[bool, list[SimpleQueue]] = {True: [], False: []}


def run_in_background(work: Callable, *arguments, urgent: bool = False) -> None:
    """Run `work(*arguments)` in a thread of its own; of low priority unless it is urgent: frames come first.

    Threads that have nothing to do are kept for the next: OpenCV never gives back what it keeps for each, 0.9 kB.
    """
    idle = _IDLE[urgent]
    try:
        inbox = idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox, idle, urgent), daemon=True).start()
    inbox.put(partial(work, *arguments))


def _serve(inbox: SimpleQueue, idle: list[SimpleQueue], urgent: bool) -> None:
    """Until a work raises: threading reports that."""
    if not urgent:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # of this thread only, on Linux
    while True:
        inbox.get()()
        idle.append(inbox)


def workers_for(pairs: int, threads: int) -> int:
    """How many workers serve so many camera pairs: as many as have `threads` cores each for the student, at least one.

    Pairs on several workers are fused side by side; on a GPU each fuser has a stream of its own.
    """
    return max(1, min(pairs, len(os.sched_getaffinity(0)) // threads))


class Answering(Protocol):
    """What is done with a lane's pairs; nothing here raises. Only `fuse` may take its time, and only it may hang."""

    def fuse(self, pair: Pair) -> Any:
        """The answer, for `publish`; in the worker's thread."""

    def publish(self, pair: Pair, answer: Any) -> None:
        """In the worker's thread."""

    def pass_through(self, pair: Pair, stalled_ns: int) -> None:
        """Publish RGB: fusing stalls, for so long by now. In the stand-in's thread, never beside `publish`."""

    def skip(self, pair: Pair) -> None:
        """Overload; called with the lock held, must be quick."""

    def abandon(self) -> None:
        """What hangs in `fuse` is left to itself, and a new worker will call it; with the lock held, must be quick."""


class Lane:
    """One camera pair's sync and mailbox, made by Worker.add_lane; frames in from any thread."""

    def __init__(self, wake: threading.Condition, sync: NearestSync, max_latency_ns: int, cameras: Answering):
        self._wake = wake  # the worker's, which guards everything here
        self.sync, self.max_latency_ns, self.cameras = sync, max_latency_ns, cameras
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
            self.sync.config, self.max_latency_ns = config, max_latency_ns
            self._wake.notify_all()

    def enqueue(self, pairs: list[Pair]) -> None:
        """Decided pairs, for the worker; called with the lock held."""
        self.ready.extend(pairs)
        now_ns = time.monotonic_ns()
        if self.ready and self.ready[0].rgb.arrival_ns < now_ns - self.max_latency_ns:
            # Catch up at once: skipping one by one would keep all that follows just as late.
            while len(self.ready) > 1 and self.ready[0].rgb.arrival_ns < now_ns - self.max_latency_ns // 2:
                self.cameras.skip(self.ready.popleft())
        self._wake.notify_all()


class Worker:
    """One thread for any number of lanes: of all pairs that are decided, the one whose RGB frame came first is next.

    When fusing a pair stalls (a GPU that hangs, a machine that is busy elsewhere), a second thread, the stand-in, lets
    its RGB frame through, and those of all that follow, until the worker comes back; what it then brings is too late
    and forgotten. A pair stalls that takes longer than a STALL_SHARE-th of its lane's max_latency_ns, and STALL_RATIO
    times as long as usual: where everything is slow, everything is fused. The first may take a FIRST_SHARE-th. A worker
    that does not come back within LOST_NS is replaced.
    """

    def __init__(self):
        lock = threading.RLock()  # guards everything here and in the lanes
        self._wake = threading.Condition(lock)  # of the worker, and of the stand-in while it answers
        self._rest = threading.Condition(lock)  # of the stand-in while it watches
        self._lanes: list[Lane] = []
        self._hand: tuple[Lane, Pair] | None = None  # what the worker fuses
        self._since_ns = 0  # when it began
        self._recent_ns: deque[int] = deque(maxlen=RECENT)  # how long it took with thermal
        self._stalled = False  # the stand-in has answered the pair in hand
        self._standing_in = False  # it is about to publish
        self._stopping = self._abandoned = False
        with lock:
            self._start_worker()
        self._watcher = threading.Thread(target=self._stand_in, name="fusion stand-in", daemon=True)
        self._watcher.start()

    def add_lane(self, sync: NearestSync, max_latency_ns: int, cameras: Answering) -> Lane:
        """Frames into the lane, decided pairs out to `cameras`, in order, by their deadline.

        sync: decides the pairs; owned by the lane from here on.
        max_latency_ns: overload. When the lane's oldest pair has an RGB frame that arrived longer ago, all that arrived
            more than half of it ago are skipped, but for the newest pair; so the mailbox holds no more than arrives in
            that time.
        """
        with self._wake:
            self._lanes.append(Lane(self._wake, sync, max_latency_ns, cameras))
            self._rest.notify_all()  # it may have less patience than the others
            return self._lanes[-1]

    def reset(self) -> None:
        """The clock jumped: as NearestSync.reset, of every lane."""
        with self._wake:
            for lane in self._lanes:
                lane.enqueue(lane.sync.reset(time.monotonic_ns()))

    def stop(self) -> None:
        """End the threads after the pair in hand, if that takes no longer than STOP_S; what waits is forgotten."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
            self._rest.notify_all()
        for thread in (self._worker, self._watcher):
            thread.join(STOP_S)
        with self._wake:
            self._abandoned = True

    def _next(self, wanted: Callable[[], bool]) -> tuple[Lane, Pair] | None:
        """Wait for the next pair; None as soon as none is `wanted`. Called with the lock held."""
        while wanted():
            now_ns = time.monotonic_ns()
            for lane in self._lanes:
                lane.enqueue(lane.sync.poll(now_ns))
            if waiting := [lane for lane in self._lanes if lane.ready]:
                lane = min(waiting, key=lambda lane: lane.ready[0].rgb.arrival_ns)
                return lane, lane.ready.popleft()
            due_ns = [lane.sync.next_deadline_ns for lane in self._lanes]
            due_ns = min((ns for ns in due_ns if ns is not None), default=None)
            self._wake.wait(None if due_ns is None else max(0, due_ns - now_ns) / NS_PER_S)
        return None

    # --- the worker ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while taken := self._take():
            lane, pair = taken
            answer = lane.cameras.fuse(pair)
            if self._is_in_time():
                lane.cameras.publish(pair, answer)

    def _take(self) -> tuple[Lane, Pair] | None:
        """The next pair, when there is one; None when stopping, and for a worker that was replaced."""
        with self._wake:
            if self._is_replaced():
                return None
            self._hand = self._next(lambda: not self._stopping)
            self._since_ns = time.monotonic_ns()
            return self._hand

    def _is_in_time(self) -> bool:
        """Whether the pair in hand, which is fused now, is still to be published."""
        with self._wake:
            if self._is_replaced():
                return False
            if self._hand[1].thermal:
                self._recent_ns.append(time.monotonic_ns() - self._since_ns)
            in_time = not self._stalled
            self._hand, self._stalled = None, False
            self._wake.notify_all()
            while self._standing_in:  # what it publishes came first
                self._wake.wait()
            return in_time and not self._abandoned

    def _is_replaced(self) -> bool:
        return threading.current_thread() is not self._worker

    # --- the stand-in -------------------------------------------------------------------------------------

    def _stand_in(self) -> None:
        while taken := self._take_over():
            lane, pair = taken
            lane.cameras.pass_through(pair, time.monotonic_ns() - self._since_ns)
            with self._wake:
                self._standing_in = False
                self._wake.notify_all()

    def _take_over(self) -> tuple[Lane, Pair] | None:
        """The pair in hand once it stalls, then those that follow; None when stopping."""
        with self._wake:
            taken = None
            while not taken and not self._stopping:
                if self._stalled and time.monotonic_ns() - self._since_ns > LOST_NS:
                    self._replace_worker()
                elif self._stalled:
                    taken = self._next(lambda: self._stalled and not self._stopping)
                elif (rest_ns := self._patience_ns()) <= 0:
                    taken, self._stalled = self._hand, True
                else:
                    self._rest.wait(rest_ns / NS_PER_S)
            self._standing_in = taken is not None
            return taken

    def _replace_worker(self) -> None:
        """Called with the lock held."""
        self._hand[0].cameras.abandon()
        self._hand, self._stalled = None, False
        self._start_worker()

    def _start_worker(self) -> None:
        """Called with the lock held, so that the thread finds itself to be the worker."""
        self._worker = threading.Thread(target=self._work, name="fusion worker", daemon=True)
        self._worker.start()

    def _patience_ns(self) -> int:
        """How long from now nothing can stall."""
        if not self._hand:
            return min((lane.max_latency_ns for lane in self._lanes), default=NS_PER_S) // STALL_SHARE
        max_latency_ns = self._hand[0].max_latency_ns
        if self._recent_ns:
            limit_ns = max(max_latency_ns // STALL_SHARE, STALL_RATIO * median(self._recent_ns))
        else:
            limit_ns = max_latency_ns // FIRST_SHARE
        return int(self._since_ns + limit_ns - time.monotonic_ns())
