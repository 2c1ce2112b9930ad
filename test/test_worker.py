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
        self.worker = Worker(NearestSync(config), max_latency_ms * MS, self._answer, self.skipped.append)

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
    harness.worker.add_rgb(frame(1000))
    harness.wait(1)
    (pair,) = harness.answered
    assert pair.mode is Mode.PASSTHROUGH and pair.ready_ns >= pair.rgb.arrival_ns + 20 * MS


def test_a_pair_is_answered_without_waiting_for_the_deadline(make):
    harness = make(deadline_ms=60_000)
    harness.worker.add_thermal(frame(1001))
    harness.worker.add_rgb(frame(1000))
    harness.wait(1)
    assert harness.answered[0].mode is Mode.FUSED


def test_a_stalled_worker_skips_what_became_too_old_and_answers_the_newest(make):
    harness = make(max_latency_ms=50, deadline_ms=0)
    harness.open.clear()
    old_ns = time.monotonic_ns() - 1000 * MS
    harness.worker.add_rgb(frame(0, old_ns))  # in the worker's hands
    time.sleep(0.05)
    for i in range(1, 500):
        harness.worker.add_rgb(frame(i, old_ns))
        assert len(harness.worker._ready) <= 1  # a stall costs no memory
    harness.open.set()
    harness.wait(500)
    assert [p.rgb.stamp_ns // MS for p in harness.answered] == [0, 499]
    assert [p.rgb.stamp_ns // MS for p in harness.skipped] == list(range(1, 499))


def test_a_burst_is_answered_whole_while_it_is_young(make):
    harness = make()
    harness.open.clear()
    for i in range(5):
        harness.worker.add_rgb(frame(1000 + i))
    harness.worker.add_thermal(frame(1004))  # decides all five at once
    harness.open.set()
    harness.wait(5)
    assert [p.rgb.stamp_ns // MS for p in harness.answered] == [1000, 1001, 1002, 1003, 1004]


def test_new_limits_hold_from_the_next_decision_on(make):
    harness = make(deadline_ms=60_000)
    harness.worker.add_rgb(frame(1000))
    harness.worker.configure(SyncConfig(deadline_ns=0), 10_000 * MS)
    harness.wait(1)


def test_a_clock_jump_answers_what_waits(make):
    harness = make(deadline_ms=60_000)
    harness.worker.add_rgb(frame(1000))
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
