"""The worker answers what is ready, lets nothing wait past its deadline, and under overload the newest wins.

Time stands still until a test sets it forward, so that no other work on the machine changes an answer.
"""

import os
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest
from sync_settings import sync_settings

from fusionproxy_ros.core.frames import NS_PER_S, Frame, Mode
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pipeline.worker import LOST_NS, Clock, Worker, workers_for

MS = 1_000_000
PATIENCE_S = 60  # for what takes a moment


class HandClock(Clock):
    """A clock that a test sets forward, and that knows when the threads that wait by it have nothing left to do."""

    def __init__(self):
        self._now_ns = 1_000 * NS_PER_S
        self._changed = threading.Condition()  # guards all this; taken after the worker's lock, never before
        self._conditions = set()  # that threads wait for
        self._parked = set()  # threads that wait, and have seen what there was to see
        self.threads = set()  # that ever waited

    def now_ns(self):
        return self._now_ns

    def wait(self, condition, timeout_ns=None):
        with self._changed:
            self._conditions.add(condition)
            self._park()
        condition.wait(PATIENCE_S)
        with self._changed:
            self._parked.discard(threading.current_thread())

    def hold(self, until):
        """Be busy until that is so."""
        with self._changed:
            while not until():
                self._park()
                assert self._changed.wait(PATIENCE_S)
            self._parked.discard(threading.current_thread())

    def _park(self):
        thread = threading.current_thread()
        self.threads.add(thread)
        self._parked.add(thread)
        self._changed.notify_all()

    def set_forward(self, ns):
        self._now_ns += ns
        self.nudge()

    def nudge(self):
        """Everybody looks again."""
        with self._changed:
            conditions = list(self._conditions)
        for condition in conditions:
            with condition:
                condition.notify_all()
        with self._changed:
            self._changed.notify_all()

    def settle(self, threads=2):
        """Until so many threads wait for what this thread does next."""
        for _ in range(3):  # what one does may be news for the other
            with self._changed:
                self._parked.clear()
            self.nudge()
            with self._changed:
                assert self._changed.wait_for(lambda: len(self._parked) >= threads, PATIENCE_S)


class Handler:
    """Says what it is asked to publish. said: (what, stamp in ms), in order; pairs: of those that were answered."""

    def __init__(self):
        self.said, self.pairs, self.abandoned = [], [], 0

    def fuse(self, pair):
        return pair.rgb.stamp_ns // MS

    def publish(self, pair, answer):
        assert answer == pair.rgb.stamp_ns // MS
        self._say("fused", pair)

    def pass_through(self, pair, stalled_ns):
        self._say("passed", pair)

    def _say(self, what, pair):
        self.pairs.append(pair)
        self.said.append((what, pair.rgb.stamp_ns // MS))

    def skip(self, pair):
        return partial(self.said.append, ("skipped", pair.rgb.stamp_ns // MS))

    def abandon(self):
        self.abandoned += 1

    def wait(self, count):
        """Until so many are said; for a clock that goes by itself."""
        end_s = time.monotonic() + PATIENCE_S
        while len(self.said) < count and time.monotonic() < end_s:
            time.sleep(0.002)


class Harness(Handler):
    """A worker whose fusing takes as long as a test says, and is held up while it is not `open`."""

    def __init__(self, max_latency_ms=10_000, deadline_ms=20, sync=NearestSync):
        super().__init__()
        self.open = True
        self.fuse_ms = lambda ms: 0  # of a frame with this stamp
        self.clock = HandClock()
        self.worker = Worker(self.clock)
        self.queue = self.add_queue(max_latency_ms, deadline_ms, sync)

    def add_queue(self, max_latency_ms=10_000, deadline_ms=20, sync=NearestSync):
        config = sync_settings(
            tolerance_ns=5 * MS, deadline_ns=deadline_ms * MS, max_latency_ns=max_latency_ms * MS
        )
        return self.worker.add_queue(sync(config), self)

    def frame(self, stamp_ms, age_ms=0):
        arrival_ns = self.clock.now_ns() - round(age_ms * MS)
        return Frame(stamp_ms * MS, "", np.zeros((1, 1), np.uint8), "", arrival_ns)

    def enter(self, stamp_ms, thermal=False):
        if thermal:
            self.queue.add_thermal(self.frame(stamp_ms))
        self.queue.add_rgb(self.frame(stamp_ms))
        self.settle()

    def settle(self):
        self.clock.settle(2 + self.abandoned)

    def advance(self, ms, step_ms=1):
        for _ in range(ms // step_ms):
            self.clock.set_forward(step_ms * MS)
            self.settle()

    def release(self):
        self.open = True
        self.settle()

    def usually_slow(self):
        """Nothing stalls that takes seconds."""
        self.fuse_ms = lambda ms: 9_000
        self.enter(0, thermal=True)
        self.advance(9_000, 500)
        self.fuse_ms = lambda ms: 0
        self.said.clear()
        return self

    def fuse(self, pair):
        ms = super().fuse(pair)
        end_ns = self.clock.now_ns() + self.fuse_ms(ms) * MS
        self.clock.hold(lambda: self.open and self.clock.now_ns() >= end_ns)
        return ms

    @property
    def answered(self):
        return [ms for what, ms in self.said if what != "skipped"]

    def of(self, what):
        return [ms for each, ms in self.said if each == what]

    def close(self):
        """End what is in progress, and the worker with all its threads."""
        self.open = True
        self.clock.set_forward(3600 * NS_PER_S)
        self.worker.stop()
        for thread in self.clock.threads - {threading.current_thread()}:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def make():
    made = []

    def build(**kwargs):
        made.append(Harness(**kwargs))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


def test_a_frame_without_thermal_is_answered_at_its_deadline_though_nothing_else_arrives(make):
    harness = make(deadline_ms=20)
    harness.enter(1000)
    harness.advance(19)
    assert not harness.said
    harness.advance(1)
    (pair,) = harness.pairs
    assert pair.mode is Mode.PASSTHROUGH and pair.ready_ns == pair.rgb.arrival_ns + 20 * MS


def test_a_pair_is_answered_without_waiting_for_the_deadline(make):
    harness = make(deadline_ms=60_000)
    harness.queue.add_thermal(harness.frame(1001))
    harness.enter(1000)
    assert harness.pairs[0].mode is Mode.FUSED


def test_by_a_clock_that_goes_by_itself_deadlines_are_met_too():
    handler, worker = Handler(), Worker()
    queue = worker.add_queue(
        NearestSync(sync_settings(deadline_ns=20 * MS, max_latency_ns=10_000 * MS)), handler
    )
    arrival_ns = time.monotonic_ns()
    queue.add_rgb(Frame(1000 * MS, "", np.zeros((1, 1), np.uint8), "", arrival_ns))
    handler.wait(1)
    worker.stop()
    (pair,) = handler.pairs
    assert pair.mode is Mode.PASSTHROUGH and pair.ready_ns >= arrival_ns + 20 * MS


def test_a_slow_worker_skips_what_became_too_old_and_answers_the_newest(make):
    harness = make(max_latency_ms=50, deadline_ms=0).usually_slow()
    harness.open = False
    harness.enter(1000)  # in progress
    harness.advance(1000, 100)
    kept = []
    for i in range(1001, 1500):
        frame = harness.frame(i, age_ms=900)
        kept.append(weakref.ref(frame))
        harness.queue.add_rgb(frame)
    harness.settle()
    del frame
    assert sum(one() is not None for one in kept) <= 2, "overload costs no memory"
    assert not harness.said, "what is skipped is said in the order of stamps"
    harness.release()
    assert harness.said == [
        ("fused", 1000),
        *(("skipped", ms) for ms in range(1001, 1499)),
        ("fused", 1499),
    ]


def test_while_fusing_hangs_what_is_skipped_is_said_in_its_turn_too(make):
    harness = make(max_latency_ms=100, deadline_ms=0)
    harness.open = False
    harness.enter(0)
    for i in range(1, 6):
        harness.queue.add_rgb(harness.frame(i, age_ms=1000))
    harness.settle()
    assert not harness.said
    harness.advance(50)  # a half of max_latency
    expected = [("passed", 0), *(("skipped", ms) for ms in range(1, 5)), ("passed", 5)]
    assert harness.said == expected
    harness.release()
    assert harness.said == expected


def test_a_burst_is_answered_whole_while_it_is_young(make):
    harness = make()
    harness.open = False
    for i in range(5):
        harness.enter(1000 + i)
    harness.queue.add_thermal(harness.frame(1004))  # decides all five at once
    harness.release()
    assert harness.said == [("fused", ms) for ms in range(1000, 1005)]


def test_new_limits_hold_from_the_next_decision_on(make):
    harness = make(deadline_ms=60_000)
    harness.enter(1000)
    assert not harness.said
    harness.queue.configure(sync_settings(deadline_ns=0, max_latency_ns=10_000 * MS))
    harness.settle()
    assert harness.answered == [1000]


def test_of_several_cameras_the_frame_that_came_first_is_answered_first(make):
    harness = make(deadline_ms=0)
    rear = harness.add_queue()
    harness.open = False
    harness.enter(0)  # in progress
    for i in range(3):
        rear.add_rgb(harness.frame(2000 + i, age_ms=50 - 2 * i), "as it is")
    for i in range(3):  # decided later, but the first of them has waited longest
        harness.queue.add_rgb(harness.frame(1000 + i, age_ms=51 - 2 * i), "as it is")
    harness.release()
    assert harness.answered == [0, 1000, 2000, 1001, 2001, 1002, 2002]


def test_a_camera_that_overloads_the_node_loses_its_own_frames_and_no_others(make):
    harness = make(max_latency_ms=50, deadline_ms=0).usually_slow()
    rear = harness.add_queue(max_latency_ms=50)
    harness.open = False
    harness.enter(1000)
    rear.add_rgb(harness.frame(2000), "as it is")
    for i in range(1, 100):
        harness.queue.add_rgb(harness.frame(1000 + i, age_ms=900), "as it is")
    harness.release()
    assert harness.of("skipped") == list(range(1001, 1099))
    assert harness.answered == [1000, 1099, 2000]


def test_while_fusing_hangs_rgb_passes_at_once_and_in_order_and_what_comes_too_late_is_forgotten(make):
    harness = make(max_latency_ms=4000, deadline_ms=0)
    harness.enter(0, thermal=True)
    harness.open = False
    harness.enter(11)
    harness.enter(12)
    harness.advance(1000 - 5, 5)
    harness.advance(4)
    assert harness.answered == [0]
    harness.advance(1)  # a quarter of max_latency, for both
    assert harness.of("passed") == [11, 12]
    harness.enter(13)
    assert harness.of("passed") == [11, 12, 13]
    harness.release()
    harness.enter(14)
    assert harness.answered == [0, 11, 12, 13, 14] and harness.of("passed") == [11, 12, 13]


def test_a_frame_without_thermal_that_falls_due_while_fusing_hangs_passes_at_its_deadline(make):
    harness = make(max_latency_ms=100, deadline_ms=150)
    harness.open = False
    harness.enter(1, thermal=True)
    harness.advance(50)
    assert harness.said == [("passed", 1)]
    harness.enter(20)
    harness.advance(149)
    assert harness.answered == [1]
    harness.advance(1)
    assert harness.said == [("passed", 1), ("passed", 20)]


@pytest.mark.parametrize("slow_ms, passed", [(80, []), (160, [0])])
def test_where_every_frame_is_slow_every_frame_is_fused(make, slow_ms, passed):
    harness = make(max_latency_ms=240, deadline_ms=0)  # 60 ms would be a stall; for the first frame, 120
    harness.fuse_ms = lambda ms: slow_ms
    for i in range(8):
        harness.enter(i, thermal=True)
        harness.advance(slow_ms + 40, 4)
    assert harness.answered == list(range(8)) and harness.of("passed") == passed


def test_an_end_does_not_wait_for_a_frame_that_hangs_and_its_answer_is_not_published(make):
    harness = make(max_latency_ms=60_000, deadline_ms=0)
    harness.open = False
    harness.enter(1)
    harness.worker.stop()
    assert any(thread.is_alive() for thread in harness.clock.threads), "it hangs still"
    harness.close()
    assert not harness.said


def test_a_worker_that_hangs_for_good_is_replaced_and_what_it_brings_one_day_is_forgotten(make):
    harness = make(max_latency_ms=80, deadline_ms=5)
    fuse, hung, fused_by = harness.fuse, [], []

    def hang(pair):
        if pair.rgb.stamp_ns == 3 * MS:
            hung.append(threading.current_thread())
            harness.clock.hold(lambda: not hung)
        fused_by.append(threading.current_thread())
        return fuse(pair)

    harness.fuse = hang
    for i in range(40):
        harness.enter(i, thermal=True)
        harness.advance(500, 20)
    lost = 3 + LOST_NS // (500 * MS) + 1  # the first that passes when it hangs for longer
    assert harness.of("passed") == list(range(3, lost + 1)) and harness.abandoned == 1
    assert harness.answered == list(range(40)), "then fused by another worker"
    (first,) = hung
    assert first.is_alive() and fused_by[-1] is not first and len(set(fused_by)) == 2
    hung.clear()
    harness.clock.nudge()
    first.join(PATIENCE_S)
    assert not first.is_alive() and len(harness.said) == 40


def test_nothing_is_published_and_no_image_is_looked_at_while_callbacks_would_wait_for_it(make):
    looked = []

    def no_callback_waits():
        """Frames come in meanwhile."""
        other = threading.Thread(target=harness.queue.add_depth, args=(harness.frame(0),), daemon=True)
        other.start()
        other.join(PATIENCE_S)
        assert not other.is_alive()
        return True

    class Looking(NearestSync):
        def why_not_live(self, thermal):
            looked.append(no_callback_waits())
            return super().why_not_live(thermal)

    harness = make(max_latency_ms=100, deadline_ms=0, sync=Looking)
    done = set()

    def checked(name):
        method = getattr(harness, name)

        def call(*arguments):
            no_callback_waits()
            done.add(name)
            return method(*arguments)

        return call

    for name in "publish", "pass_through", "abandon":
        setattr(harness, name, checked(name))
    harness.skip = lambda pair: lambda: (no_callback_waits(), done.add("skip"))
    harness.enter(0, thermal=True)
    harness.open = False
    harness.enter(1, thermal=True)
    for i in range(2, 6):
        harness.queue.add_rgb(harness.frame(i, age_ms=1000))
    harness.advance(100, 10)
    harness.advance(10_000, 1000)
    harness.enter(10)
    assert done == {"publish", "pass_through", "skip", "abandon"} and len(looked) == 2


@pytest.mark.parametrize("seed", range(3))
def test_whatever_stalls_every_frame_is_answered_once_and_in_order(seed):
    """By a clock that goes by itself, since threads then meet as they please."""
    random = [np.random.default_rng(seed + 10 * i) for i in range(3)]

    class Slow(Handler):
        def fuse(self, pair):
            time.sleep(random[0].choice([0.0, 0.002, 0.009, 0.012, 0.03]))
            if pair.rgb.stamp_ns == 50 * MS:  # stalls, however busy the machine is
                end_s = time.monotonic() + PATIENCE_S
                while ("passed", 50) not in self.said and time.monotonic() < end_s:
                    time.sleep(0.002)
            return super().fuse(pair)

        def pass_through(self, pair, stalled_ns):
            time.sleep(random[1].choice([0.0, 0.004]))
            super().pass_through(pair, stalled_ns)

    handler, worker = Slow(), Worker()
    config = sync_settings(tolerance_ns=5 * MS, deadline_ns=5 * MS, max_latency_ns=40 * MS)
    queues = {first: worker.add_queue(NearestSync(config), handler) for first in (0, 10_000)}
    for i in range(200):
        for first, queue in queues.items():
            frame = Frame((first + i) * MS, "", np.zeros((1, 1), np.uint8), "", time.monotonic_ns())
            queue.add_rgb(frame)
            if random[2].random() < 0.7:
                queue.add_thermal(frame)
        if i == 50:
            handler.wait(102)  # nothing newer is ready, so that it is not skipped
        time.sleep(0.004)
    handler.wait(400)
    worker.stop()
    for first in queues:
        mine = range(first, first + 200)
        assert [ms for _, ms in handler.said if ms in mine] == list(mine)
    assert ("passed", 50) in handler.said


def test_a_clock_jump_answers_what_waits(make):
    harness = make(deadline_ms=60_000)
    harness.enter(1000)
    harness.worker.reset()
    harness.settle()
    assert harness.answered == [1000]


def test_pairs_get_as_many_workers_as_have_cores_for_their_students(monkeypatch):
    for cores, pairs, threads, workers in (
        (2, 1, 1, 1),
        (2, 2, 2, 1),
        (2, 8, 1, 2),
        (16, 8, 2, 8),
        (16, 3, 2, 3),
        (1, 2, 64, 1),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert workers_for(pairs, threads) == workers
