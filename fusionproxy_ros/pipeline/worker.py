"""The two threads that answer pairs: one fuses and publishes, the fallback lets RGB through while fusing stalls."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from fusionproxy_ros.core.frames import NS_PER_S, Frame, Pair
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pairing.settings import SyncSettings

STALL_SHARE = 4  # fusing that takes longer than this part of max_latency_ns...
STALL_RATIO = 3  # ...and this many times as long as usual stalls
FIRST_SHARE = 2  # the limit of the first frame, before anything is usual: it also waits for its lookup grid
RECENT = 15  # frames whose median is usual
LOST_NS = 10 * NS_PER_S  # a worker that hangs for so long is lost, and another takes its place
STOP_S = 0.5  # how long an end waits for the pair in progress


def workers_for(pairs: int, threads: int) -> int:
    """How many workers serve so many camera pairs: as many as have `threads` cores each for the student, at least one.

    Pairs on several workers are fused side by side; on a GPU each fuser has a stream of its own.
    """
    return max(1, min(pairs, len(os.sched_getaffinity(0)) // threads))


class Clock:
    """The time that frames arrive by, and waiting by it. A test has one that it sets forward itself."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait(self, condition: threading.Condition, timeout_ns: int | None = None) -> None:
        """For a notification, or so long; may come back early. The condition's lock is held."""
        condition.wait(None if timeout_ns is None else timeout_ns / NS_PER_S)


class PairHandler(Protocol):
    """What is done with the pairs of a queue; nothing here raises. Only `fuse` may take its time, and only it may hang.

    `publish`, `pass_through` and what `skip` returned are called in the order of stamps, one at a time for all queues
    of a worker, and without its lock.
    """

    def fuse(self, pair: Pair) -> Any:
        """The answer, for `publish`; in the worker's thread."""

    def publish(self, pair: Pair, answer: Any) -> None:
        """In the worker's thread."""

    def pass_through(self, pair: Pair, stalled_ns: int) -> None:
        """Publish RGB: fusing stalls, for so long by now. In the fallback's thread."""

    def skip(self, pair: Pair) -> Callable[[], None]:
        """Overload: this pair gets no answer. Returns what says so, for the thread that answers the next pair.

        In any thread, with the lock held: return at once. What waits to be said must not keep images.
        """

    def abandon(self) -> None:
        """What hangs in `fuse` is left to itself, and a new worker will call it. In the fallback's thread."""


@dataclass(frozen=True, eq=False)
class _Task:
    """A pair that is to be answered, and what is to be said before of those that were skipped for it."""

    pair: Pair
    handler: PairHandler
    max_latency_ns: int
    say_skipped: list[Callable[[], None]]

    def publish_skipped(self) -> None:
        for say in self.say_skipped:
            say()


class CameraQueue:
    """One camera pair's frames on their way to the worker; made by Worker.add_queue.

    The thread of the callbacks adds frames, resets and configures. The worker's two threads poll and pop, with the
    lock held. That lock, the worker's, guards everything here but NearestSync.why_not_live.
    """

    def __init__(
        self,
        wake: threading.Condition,
        clock: Clock,
        sync: NearestSync,
        handler: PairHandler,
    ):
        self._wake, self._clock = wake, clock
        self._sync, self._handler = sync, handler
        self._ready: deque[Pair] = deque()
        self._say_skipped: list[Callable[[], None]] = []  # of the pairs before the first that is ready

    def add_rgb(self, frame: Frame, passthrough_reason: str = "") -> None:
        """As NearestSync.add_rgb."""
        with self._wake:
            self._enqueue(self._sync.add_rgb(frame, passthrough_reason))

    def add_thermal(self, frame: Frame) -> None:
        """As NearestSync.add_thermal; a frame that shows nothing new does not count."""
        not_live = self._sync.why_not_live(frame)  # without the lock: it looks at whole images
        with self._wake:
            self._enqueue(self._sync.add_thermal(frame, not_live))

    def add_depth(self, frame: Frame) -> None:
        """As NearestSync.add_depth."""
        with self._wake:
            self._sync.add_depth(frame)

    def reset(self) -> None:
        """As NearestSync.reset."""
        with self._wake:
            self._enqueue(self._sync.reset(self._clock.now_ns()))

    def configure(self, settings: SyncSettings) -> None:
        """Change the limits from the next decision on."""
        with self._wake:
            self._sync.config = settings
            self._wake.notify_all()

    @property
    def max_latency_ns(self) -> int:
        """As SyncSettings has it."""
        return self._sync.config.max_latency_ns

    # --- the worker's threads, which hold the lock --------------------------------------------------------

    def poll(self) -> None:
        """As NearestSync.poll, at this moment."""
        self._enqueue(self._sync.poll(self._clock.now_ns()))

    @property
    def next_deadline_ns(self) -> int | None:
        """When to poll again at the latest."""
        return self._sync.next_deadline_ns

    @property
    def oldest_ns(self) -> int | None:
        """When the RGB frame arrived that `pop` would give; None where nothing is ready."""
        return self._ready[0].rgb.arrival_ns if self._ready else None

    def pop(self) -> _Task:
        say_skipped, self._say_skipped = self._say_skipped, []
        return _Task(self._ready.popleft(), self._handler, self.max_latency_ns, say_skipped)

    def _enqueue(self, pairs: list[Pair]) -> None:
        """Decided pairs, for the worker; with the lock held."""
        self._ready.extend(pairs)
        now_ns = self._clock.now_ns()
        if self._ready and self._ready[0].rgb.arrival_ns < now_ns - self.max_latency_ns:
            # Catch up at once: skipping one by one would keep all that follows just as late.
            recent_ns = now_ns - self.max_latency_ns // 2
            while len(self._ready) > 1 and self._ready[0].rgb.arrival_ns < recent_ns:
                self._say_skipped.append(self._handler.skip(self._ready.popleft()))
        self._wake.notify_all()


class Worker:
    """One thread for any number of queues: of all decided pairs, the one whose RGB frame came first is next.

    When fusing a pair stalls (a GPU that hangs, a machine that is busy elsewhere), a second thread, the fallback, lets
    its RGB frame through, and those of all that follow, until the worker comes back; what it then brings is too late
    and forgotten. A pair stalls that takes longer than a STALL_SHARE-th of its queue's max_latency_ns, and STALL_RATIO
    times as long as usual: where everything is slow, everything is fused. The first may take a FIRST_SHARE-th. A worker
    that does not come back within LOST_NS is replaced.

    `add_queue`, `reset` and `stop` are for the thread of the callbacks. One lock guards everything here and in the
    queues; while it is held nothing is published, and no image is looked at.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        lock = threading.RLock()
        self._wake = threading.Condition(lock)  # of the worker, and of the fallback while it answers
        self._watch = threading.Condition(lock)  # of the fallback while it watches
        self._queues: list[CameraQueue] = []
        self._in_progress: _Task | None = None  # what the worker fuses
        self._started_ns = 0  # when it began
        self._recent_ns: deque[int] = deque(maxlen=RECENT)  # how long it took with thermal
        self._stalled = False  # the fallback has answered the pair in progress
        self._fallback_publishes = False  # or is about to
        self._stopping = self._stopped = False
        self._worker: threading.Thread | None = None  # none while a lost one is replaced
        with lock:
            self._start_worker()
        self._fallback = threading.Thread(target=self._fall_back, name="fusion fallback", daemon=True)
        self._fallback.start()

    def add_queue(self, sync: NearestSync, handler: PairHandler) -> CameraQueue:
        """Frames into the queue, decided pairs out to `handler`, in order, by their deadline.

        sync: decides the pairs; owned by the queue from here on.
            Of overload its max_latency_s: when the queue's oldest pair has an RGB frame that arrived longer ago, all
            that arrived more than half of it ago are skipped, but for the newest pair; so the queue holds no more than
            arrives in that time.
        """
        queue = CameraQueue(self._wake, self._clock, sync, handler)
        with self._wake:
            self._queues.append(queue)
            self._watch.notify_all()  # it may have less patience than the others
        return queue

    def reset(self) -> None:
        """The clock jumped: as NearestSync.reset, of every queue."""
        for queue in self._queues:
            queue.reset()

    def stop(self) -> None:
        """End the threads after the pair in progress, if that takes no longer than STOP_S; what waits is forgotten."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
            self._watch.notify_all()
            worker = self._worker
        for thread in (worker, self._fallback):
            if thread:
                thread.join(STOP_S)
        with self._wake:
            self._stopped = True

    def _next(self, wanted: Callable[[], bool]) -> _Task | None:
        """Wait for the next pair; None as soon as none is `wanted`. Called with the lock held."""
        while wanted():
            ready = []
            for queue in self._queues:
                queue.poll()
                if queue.oldest_ns is not None:
                    ready.append((queue.oldest_ns, queue))
            if ready:
                return min(ready, key=lambda each: each[0])[1].pop()
            due_ns = [queue.next_deadline_ns for queue in self._queues]
            first_ns = min((ns for ns in due_ns if ns is not None), default=None)
            wait_ns = None if first_ns is None else max(0, first_ns - self._clock.now_ns())
            self._clock.wait(self._wake, wait_ns)
        return None

    # --- the worker's thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        while task := self._take():
            answer = task.handler.fuse(task.pair)
            if self._is_in_time(task):
                task.publish_skipped()
                task.handler.publish(task.pair, answer)

    def _take(self) -> _Task | None:
        """The next pair, when there is one; None when stopping, and for a worker that was replaced."""
        with self._wake:
            if self._is_replaced():
                return None
            self._in_progress = self._next(lambda: not self._stopping)
            self._started_ns = self._clock.now_ns()
            return self._in_progress

    def _is_in_time(self, task: _Task) -> bool:
        """Whether the pair in progress, which is fused now, is still to be published."""
        with self._wake:
            if self._is_replaced():
                return False
            if task.pair.thermal:
                self._recent_ns.append(self._clock.now_ns() - self._started_ns)
            in_time = not self._stalled
            self._in_progress, self._stalled = None, False
            self._wake.notify_all()
            while self._fallback_publishes:  # that comes first
                self._clock.wait(self._wake)
            return in_time and not self._stopped

    def _is_replaced(self) -> bool:
        return threading.current_thread() is not self._worker

    # --- the fallback's thread ----------------------------------------------------------------------------

    def _fall_back(self) -> None:
        while taken := self._take_over():
            task, stalled_ns = taken
            task.publish_skipped()
            task.handler.pass_through(task.pair, stalled_ns)
            with self._wake:
                self._fallback_publishes = False
                self._wake.notify_all()
            if stalled_ns > LOST_NS:
                self._replace_worker()

    def _take_over(self) -> tuple[_Task, int] | None:
        """The pair in progress once it stalls, then those that follow, and for how long it stalls; None when stopping.

        What it takes is to be published at once.
        """
        with self._wake:
            task: _Task | None = None
            while not task and not self._stopping:
                if self._stalled:
                    task = self._next(lambda: self._stalled and not self._stopping)
                elif (rest_ns := self._patience_ns()) > 0:
                    self._clock.wait(self._watch, rest_ns)
                else:
                    task, self._stalled = self._in_progress, True
            if not task:
                return None
            self._fallback_publishes = True
            return task, self._clock.now_ns() - self._started_ns

    def _replace_worker(self) -> None:
        """Unless it came back."""
        with self._wake:
            lost = self._in_progress
            if not self._stalled or not lost:
                return
            self._worker, self._in_progress, self._stalled = None, None, False
        lost.handler.abandon()  # without the lock: it logs
        with self._wake:
            if not self._stopping:
                self._start_worker()

    def _start_worker(self) -> None:
        """Called with the lock held, so that the thread finds itself to be the worker."""
        self._worker = threading.Thread(target=self._work, name="fusion worker", daemon=True)
        self._worker.start()

    def _patience_ns(self) -> int:
        """How long from now nothing can stall."""
        if not self._in_progress:
            shortest_ns = min((queue.max_latency_ns for queue in self._queues), default=NS_PER_S)
            return max(1, shortest_ns // STALL_SHARE)
        max_latency_ns = self._in_progress.max_latency_ns
        if self._recent_ns:
            limit_ns = max(max_latency_ns // STALL_SHARE, STALL_RATIO * median(self._recent_ns))
        else:
            limit_ns = max_latency_ns // FIRST_SHARE
        return int(self._started_ns + limit_ns - self._clock.now_ns())
