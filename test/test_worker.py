"""The worker answers what is ready, lets nothing wait past its deadline, and under overload the newest wins."""

import ctypes
import os
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from queue import SimpleQueue

import numpy as np
import pytest

from fusionproxy_ros import worker
from fusionproxy_ros.frames import NS_PER_S, Frame, Mode
from fusionproxy_ros.sync import NearestSync, SyncConfig
from fusionproxy_ros.worker import Worker, run_in_background, workers_for

MS = 1_000_000


def frame(stamp_ms, arrival_ns=None):
    arrival_ns = time.monotonic_ns() if arrival_ns is None else arrival_ns
    return Frame(stamp_ms * MS, "", np.zeros((1, 1), np.uint8), "", arrival_ns)


def stamps_ms(pairs):
    return [pair.rgb.stamp_ns // MS for pair in pairs]


class Harness:
    """A worker whose fusing can be held up."""

    def __init__(self, max_latency_ms=10_000, deadline_ms=20):
        self.answered, self.skipped, self.passed, self.abandoned = [], [], [], 0
        self.open = threading.Event()
        self.open.set()
        config = SyncConfig(tolerance_ns=5 * MS, deadline_ns=deadline_ms * MS)
        self.worker = Worker()
        self.lane = self.worker.add_lane(NearestSync(config), max_latency_ms * MS, self)

    def usually_slow(self):
        """Nothing stalls that takes seconds."""
        self.worker._recent_ns.append(10 * NS_PER_S)
        return self

    def fuse(self, pair):
        self.open.wait(10)
        return pair.rgb.stamp_ns // MS

    def publish(self, pair, answer):
        assert answer == pair.rgb.stamp_ns // MS
        self.answered.append(pair)

    def pass_through(self, pair, stalled_ns):
        self.passed.append(pair)
        self.answered.append(pair)

    def skip(self, pair):
        self.skipped.append(pair)

    def abandon(self):
        self.abandoned += 1

    def wait(self, count):
        end = time.monotonic() + 10
        while len(self.answered) + len(self.skipped) < count and time.monotonic() < end:
            time.sleep(0.002)
        assert len(self.answered) + len(self.skipped) == count


@pytest.fixture
def make():
    made = []

    def build(**kwargs):
        made.append(Harness(**kwargs))
        return made[-1]

    yield build
    for harness in made:
        harness.open.set()
        harness.worker.stop()
        assert not any(t.is_alive() for t in (harness.worker._worker, harness.worker._watcher))


def test_a_frame_without_thermal_is_answered_at_its_deadline_though_nothing_else_arrives(make):
    harness = make(deadline_ms=20)
    harness.lane.add_rgb(frame(1000))
    harness.wait(1)
    (pair,) = harness.answered
    assert pair.mode is Mode.PASSTHROUGH and pair.ready_ns >= pair.rgb.arrival_ns + 20 * MS


def test_a_pair_is_answered_without_waiting_for_the_deadline(make):
    harness = make(deadline_ms=60_000)
    harness.lane.add_thermal(frame(1001))
    harness.lane.add_rgb(frame(1000))
    harness.wait(1)
    assert harness.answered[0].mode is Mode.FUSED


def test_a_slow_worker_skips_what_became_too_old_and_answers_the_newest(make):
    harness = make(max_latency_ms=50, deadline_ms=0).usually_slow()
    harness.open.clear()
    old_ns = time.monotonic_ns() - 1000 * MS
    harness.lane.add_rgb(frame(0, old_ns))  # in the worker's hands
    time.sleep(0.05)
    for i in range(1, 500):
        harness.lane.add_rgb(frame(i, old_ns))
        assert len(harness.lane.ready) <= 1  # overload costs no memory
    harness.open.set()
    harness.wait(500)
    assert stamps_ms(harness.answered) == [0, 499]
    assert stamps_ms(harness.skipped) == list(range(1, 499))


def test_a_burst_is_answered_whole_while_it_is_young(make):
    harness = make()
    harness.open.clear()
    for i in range(5):
        harness.lane.add_rgb(frame(1000 + i))
    harness.lane.add_thermal(frame(1004))  # decides all five at once
    harness.open.set()
    harness.wait(5)
    assert stamps_ms(harness.answered) == [1000, 1001, 1002, 1003, 1004]


def test_new_limits_hold_from_the_next_decision_on(make):
    harness = make(deadline_ms=60_000)
    harness.lane.add_rgb(frame(1000))
    harness.lane.configure(SyncConfig(deadline_ns=0), 10_000 * MS)
    harness.wait(1)


def test_of_several_cameras_the_frame_that_came_first_is_answered_first(make):
    harness = make(deadline_ms=0)
    rear = harness.worker.add_lane(NearestSync(SyncConfig()), 10_000 * MS, harness)
    harness.open.clear()
    harness.lane.add_rgb(frame(0))  # in the worker's hands
    time.sleep(0.05)
    now_ns = time.monotonic_ns()
    for i in range(3):
        rear.add_rgb(frame(2000 + i, now_ns + 2 * i), "as it is")
    for i in range(3):  # decided later, but the first of them has waited longest
        harness.lane.add_rgb(frame(1000 + i, now_ns + 2 * i - 1), "as it is")
    harness.open.set()
    harness.wait(7)
    assert stamps_ms(harness.answered) == [0, 1000, 2000, 1001, 2001, 1002, 2002]


def test_a_camera_that_overloads_the_node_loses_its_own_frames_and_no_others(make):
    harness = make(max_latency_ms=50, deadline_ms=0).usually_slow()
    rear = harness.worker.add_lane(NearestSync(SyncConfig()), 50 * MS, harness)
    harness.open.clear()
    harness.lane.add_rgb(frame(0))
    time.sleep(0.05)
    rear.add_rgb(frame(2000), "as it is")
    for i in range(1, 100):
        harness.lane.add_rgb(frame(i, time.monotonic_ns() - 1000 * MS), "as it is")
    harness.open.set()
    harness.wait(101)
    assert len(harness.skipped) == 98 and max(stamps_ms(harness.skipped)) < 1000
    assert sorted(stamps_ms(harness.answered)) == [0, 99, 2000]


def test_while_fusing_hangs_rgb_passes_at_once_and_in_order_and_what_comes_too_late_is_forgotten(make):
    harness = make(max_latency_ms=4000, deadline_ms=0)
    harness.lane.add_thermal(frame(0))
    harness.lane.add_rgb(frame(0))
    harness.wait(1)
    harness.open.clear()
    start_s = time.monotonic()
    harness.lane.add_rgb(frame(11))
    harness.lane.add_rgb(frame(12))
    harness.wait(3)
    waited_s = time.monotonic() - start_s
    assert 1.0 <= waited_s < 1.5  # a quarter of max_latency, for both
    start_s = time.monotonic()
    harness.lane.add_rgb(frame(13))
    harness.wait(4)
    assert time.monotonic() - start_s < 0.5
    harness.open.set()
    time.sleep(0.05)
    harness.lane.add_rgb(frame(14))
    harness.wait(5)
    assert stamps_ms(harness.answered) == [0, 11, 12, 13, 14] and stamps_ms(harness.passed) == [11, 12, 13]


def test_a_frame_without_thermal_that_falls_due_while_fusing_hangs_passes_at_its_deadline(make):
    harness = make(max_latency_ms=100, deadline_ms=150)
    harness.open.clear()
    harness.lane.add_thermal(frame(1))
    harness.lane.add_rgb(frame(1))
    harness.wait(1)
    late = frame(20)
    harness.lane.add_rgb(late)
    harness.wait(2)
    assert 0.15 <= (time.monotonic_ns() - late.arrival_ns) / NS_PER_S < 1


@pytest.mark.parametrize("slow_s, passed", [(0.08, []), (0.16, [0])])
def test_where_every_frame_is_slow_every_frame_is_fused(make, slow_s, passed):
    harness = make(max_latency_ms=240, deadline_ms=0)  # 60 ms would be a stall; for the first frame, 120
    harness.fuse = lambda pair: time.sleep(slow_s) or pair.rgb.stamp_ns // MS
    for i in range(8):
        harness.lane.add_thermal(frame(i))
        harness.lane.add_rgb(frame(i))
        time.sleep(slow_s + 0.04)
    harness.wait(8)
    assert stamps_ms(harness.passed) == passed


def test_an_end_does_not_wait_for_a_frame_that_hangs_and_its_answer_is_not_published(make):
    harness = make(max_latency_ms=60_000, deadline_ms=0)
    harness.open.clear()
    harness.lane.add_rgb(frame(1))
    time.sleep(0.05)
    start_s = time.monotonic()
    harness.worker.stop()
    assert time.monotonic() - start_s < 0.9
    harness.open.set()
    time.sleep(0.05)
    assert not harness.answered


def test_a_worker_that_hangs_for_good_is_replaced_and_what_it_brings_one_day_is_forgotten(make, monkeypatch):
    monkeypatch.setattr(worker, "LOST_NS", 100 * MS)
    harness = make(max_latency_ms=80, deadline_ms=5)
    hung, first = threading.Event(), harness.worker._worker
    harness.fuse = lambda pair: hung.wait(10) if pair.rgb.stamp_ns == 3 * MS else pair.rgb.stamp_ns // MS
    for i in range(40):
        harness.lane.add_thermal(frame(i))
        harness.lane.add_rgb(frame(i))
        time.sleep(0.01)
    harness.wait(40)
    assert stamps_ms(harness.answered) == list(range(40)) and harness.abandoned == 1
    assert stamps_ms(harness.passed)[0] == 3 and 5 < len(harness.passed) < 25, "then fused by another worker"
    assert first.is_alive() and harness.worker._worker is not first
    hung.set()
    first.join(10)
    assert not first.is_alive() and len(harness.answered) == 40


@pytest.mark.parametrize("seed", range(3))
def test_whatever_stalls_every_frame_is_answered_once_and_in_order(make, seed):
    harness, rng = make(max_latency_ms=40, deadline_ms=5), np.random.default_rng(seed)
    rear = harness.worker.add_lane(NearestSync(SyncConfig(deadline_ns=5 * MS)), 40 * MS, harness)
    harness.fuse = lambda pair: (
        time.sleep(rng.choice([0.0, 0.002, 0.009, 0.012, 0.03])) or pair.rgb.stamp_ns // MS
    )
    harness.pass_through = lambda pair, ns: (
        time.sleep(rng.choice([0.0, 0.004])),
        Harness.pass_through(harness, pair, ns),
    )
    for i in range(200):
        for lane, name in (harness.lane, 0), (rear, 10_000):
            lane.add_rgb(frame(name + i))
            if rng.random() < 0.7:
                lane.add_thermal(frame(name + i))
        time.sleep(0.004)
    harness.wait(400)
    for first in 0, 10_000:
        mine = range(first, first + 200)
        answered = [ms for ms in stamps_ms(harness.answered) if ms in mine]
        assert sorted(answered + [ms for ms in stamps_ms(harness.skipped) if ms in mine]) == list(mine)
        assert answered == sorted(answered)
    assert harness.passed and len(harness.passed) < len(harness.answered)


def test_a_clock_jump_answers_what_waits(make):
    harness = make(deadline_ms=60_000)
    harness.lane.add_rgb(frame(1000))
    harness.worker.reset()
    harness.wait(1)


def test_background_work_runs_in_a_thread_that_yields_to_everybody_else():
    seen = []
    done = threading.Event()

    def work(value):
        seen.append((value, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        done.set()

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    run_in_background(work, 7)
    assert done.wait(5) and seen == [(7, 10)] and before < 10
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def in_background(work=lambda: None, urgent=False):
    """The thread that ran it."""
    inbox = SimpleQueue()
    run_in_background(lambda: inbox.put((work(), threading.current_thread())), urgent=urgent)
    thread = inbox.get(timeout=5)[1]
    time.sleep(0.02)  # it is idle again, most often
    return thread


def test_background_threads_are_kept_for_the_next_and_none_waits_for_another():
    assert len({in_background() for _ in range(20)}) < 5
    goes_on = threading.Event()
    run_in_background(goes_on.wait, 5)
    assert in_background().is_alive()
    goes_on.set()
    assert not {in_background() for _ in range(5)} & {in_background(urgent=True) for _ in range(5)}


def test_background_work_that_raises_costs_one_thread_and_what_it_says(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: told.append(failure.exc_type))
    run_in_background(lambda: 1 / 0)
    assert in_background().is_alive() and told == [ZeroDivisionError]


def test_what_was_worked_on_in_the_background_is_not_kept():
    image = np.zeros(9)
    known = weakref.ref(image)
    in_background(partial(np.sum, image))
    del image
    assert known() is None


MEMORY_OF_WORK = """
import ctypes, threading
import cv2, numpy as np
from fusionproxy_ros.worker import run_in_background

class Info(ctypes.Structure):
    _fields_ = [(str(n), ctypes.c_size_t) for n in range(10)]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
picture, done = np.zeros((48, 64), np.uint8), threading.Semaphore(0)

def work():
    cv2.GaussianBlur(picture, (0, 0), 1)
    done.release()

def in_use_after(times):
    for _ in range(times):
        run_in_background(work)
        done.acquire()
    return getattr(mallinfo(), "7")

before = in_use_after(100)
print((in_use_after(500) - before) / 500)
"""


def test_work_in_the_background_leaves_no_memory_behind():
    """OpenCV keeps 0.9 kB for each thread that ever used it: four a second are 12 MB an hour."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("glibc's count of memory in use")
    done = subprocess.run([sys.executable, "-c", MEMORY_OF_WORK], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


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
