"""Jobs beside the frames, in threads that are kept: a job that raises is reported, and takes no other with it."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

LOW_NICENESS = 10


class JobThreads:
    """Starts every job at once, in a thread that has nothing to do or in a new one. `run` is for any thread.

    concurrent.futures.ThreadPoolExecutor would let jobs wait for those that hang in a driver, and at its end the
    process would wait for them, too. Threads are kept since OpenCV never gives back what it keeps for each, 0.9 kB.

    name: of the threads, for who reads what a job raised.
    least_niceness: the priority of the threads is lowered to this, unless it is lower; None leaves it.
    """

    def __init__(self, name: str, least_niceness: int | None = None):
        self._name, self._least_niceness = name, least_niceness
        # Inboxes of the threads that wait for a job; list.append and list.pop are atomic.
        self._idle: list[SimpleQueue[Callable[[], object]]] = []
        os.register_at_fork(after_in_child=self._idle.clear)  # a child process has none of these threads

    def run(self, job: Callable[[], object]) -> None:
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name=self._name, daemon=True).start()
        inbox.put(job)

    def _serve(self, inbox: SimpleQueue[Callable[[], object]]) -> None:
        if self._least_niceness is not None:
            _lower_priority(self._least_niceness)
        while True:
            try:
                inbox.get()()
            except BaseException:  # SystemExit, too: other jobs need this thread
                _report()
            self._idle.append(inbox)


def _lower_priority(least_niceness: int) -> None:
    """Of this thread alone, as Linux can. Where the system forbids it, jobs run all the same."""
    thread_id = threading.get_native_id()
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread_id) < least_niceness:  # else it would rise
            os.setpriority(os.PRIO_PROCESS, thread_id, least_niceness)


def _report() -> None:
    """The exception in hand, as Python reports one that ends a thread: to stderr, unless the process sets the hook."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


_LOW = JobThreads("fusion background", LOW_NICENESS)
_URGENT = JobThreads("fusion urgent")


def run_in_background(job: Callable, *arguments, urgent: bool = False) -> None:
    """Run `job(*arguments)` in a thread of its own; of low priority unless it is urgent: frames come first."""
    (_URGENT if urgent else _LOW).run(partial(job, *arguments))
