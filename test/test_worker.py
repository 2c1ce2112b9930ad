"""The worker answers what is ready, lets nothing wait past its deadline, and under overload the newest wins."""

import os
import threading
import time

import numpy as np
import pytest

from fusionproxy_ros.frames import Frame, Mode
from fusionproxy_ros.sync import NearestSync, SyncConfig
from fusionproxy_ros.worker import Worker, run_in_background

MS = 1_000_000


def frame(stamp_ms, arrival_ns=None):
    arrival_ns = time.monotonic_ns() if arrival_ns is None else arrival_ns
    return Frame(stamp_ms * MS, "", np.zeros((1, 1), np.uint8), "", arrival_ns)


class Harness:
    """A worker whose answers can be held up."""

    def __init__(self, max_latency_ms=10_000, deadline_ms=20):
        self.answered, self.skipped = [], []
        self.open = threading.Event()
        self.open.set()
        config = SyncConfig(tolerance_ns=5 * MS, deadline_ns=deadline_ms * MS)
        self.worker = Worker()
        self.lane = self.worker.add_lane(
            NearestSync(config), max_latency_ms * MS, self._answer, self.skipped.append
        )

    def _answer(self, pair):
        self.open.wait(10)
        self.answered.append(pair)

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
        assert not harness.worker._thread.is_alive()


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


def test_a_stalled_worker_skips_what_became_too_old_and_answers_the_newest(make):
    harness = make(max_latency_ms=50, deadline_ms=0)
    harness.open.clear()
    old_ns = time.monotonic_ns() - 1000 * MS
    harness.lane.add_rgb(frame(0, old_ns))  # in the worker's hands
    time.sleep(0.05)
    for i in range(1, 500):
        harness.lane.add_rgb(frame(i, old_ns))
        assert len(harness.lane.ready) <= 1  # a stall costs no memory
    harness.open.set()
    harness.wait(500)
    assert [p.rgb.stamp_ns // MS for p in harness.answered] == [0, 499]
    assert [p.rgb.stamp_ns // MS for p in harness.skipped] == list(range(1, 499))


def test_a_burst_is_answered_whole_while_it_is_young(make):
    harness = make()
    harness.open.clear()
    for i in range(5):
        harness.lane.add_rgb(frame(1000 + i))
    harness.lane.add_thermal(frame(1004))  # decides all five at once
    harness.open.set()
    harness.wait(5)
    assert [p.rgb.stamp_ns // MS for p in harness.answered] == [1000, 1001, 1002, 1003, 1004]


def test_new_limits_hold_from_the_next_decision_on(make):
    harness = make(deadline_ms=60_000)
    harness.lane.add_rgb(frame(1000))
    harness.lane.configure(SyncConfig(deadline_ns=0), 10_000 * MS)
    harness.wait(1)


def test_of_several_cameras_the_frame_that_came_first_is_answered_first(make):
    harness = make(deadline_ms=0)
    order = []
    rear = harness.worker.add_lane(NearestSync(SyncConfig()), 10_000 * MS, order.append, order.append)
    harness.open.clear()
    harness.lane.add_rgb(frame(0))  # in the worker's hands
    time.sleep(0.05)
    now_ns = time.monotonic_ns()
    harness.lane.answer = order.append
    for i in range(3):
        rear.add_rgb(frame(2000 + i, now_ns + 2 * i), "as it is")
    for i in range(3):  # decided later, but the first of them has waited longest
        harness.lane.add_rgb(frame(1000 + i, now_ns + 2 * i - 1), "as it is")
    harness.open.set()
    end = time.monotonic() + 10
    while len(order) < 6 and time.monotonic() < end:
        time.sleep(0.002)
    assert [pair.rgb.stamp_ns // MS for pair in order] == [1000, 2000, 1001, 2001, 1002, 2002]


def test_a_camera_that_overloads_the_node_loses_its_own_frames_and_no_others(make):
    harness = make(max_latency_ms=50, deadline_ms=0)
    answered, skipped = [], []
    rear = harness.worker.add_lane(NearestSync(SyncConfig()), 50 * MS, answered.append, skipped.append)
    harness.open.clear()
    harness.lane.add_rgb(frame(0))
    time.sleep(0.05)
    rear.add_rgb(frame(2000), "as it is")
    for i in range(1, 100):
        harness.lane.add_rgb(frame(i, time.monotonic_ns() - 1000 * MS), "as it is")
    harness.open.set()
    harness.wait(100)
    assert len(harness.skipped) == 98 and not skipped
    assert [pair.rgb.stamp_ns // MS for pair in answered] == [2000]


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
