"""Bag time and wall time follow each other exactly, under every rate and pause; ticks are even; lateness is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.bags.schedule import LATE_NS, Schedule, Tally, Ticks
from fusionproxy_ros.core.frames import NS_PER_S

NOW_NS, BAG_NS = 123_456_789, 1_700_000_000 * NS_PER_S
RATES = st.floats(0.01, 100)


def started(rate=1.0, paused=False):
    schedule = Schedule(rate, paused)
    schedule.start(BAG_NS, NOW_NS)
    return schedule


@given(RATES, st.integers(0, 10**6 * NS_PER_S), st.lists(st.integers(0, 10**12), max_size=6))
def test_a_message_is_due_at_the_first_moment_of_its_bag_time_whatever_pauses_came_before(
    rate, ahead_ns, spans_ns
):
    schedule, now_ns = started(rate), NOW_NS
    for i, span_ns in enumerate(spans_ns):
        now_ns += span_ns
        (schedule.resume if i % 2 else schedule.pause)(now_ns)
    schedule.resume(now_ns)
    bag_ns = schedule.bag_ns(now_ns) + ahead_ns
    due_ns = schedule.due_ns(bag_ns)
    assert due_ns >= now_ns
    assert schedule.bag_ns(due_ns) >= bag_ns
    assert due_ns == now_ns or schedule.bag_ns(due_ns - 1) < bag_ns


@pytest.mark.parametrize("rate", [0.1, 1.0, 3.0, 1 / 3])
def test_a_day_does_not_drift(rate):
    day_ns = 86_400 * NS_PER_S
    assert started(rate).due_ns(BAG_NS + day_ns) - NOW_NS == pytest.approx(day_ns / rate, abs=1e-6 * NS_PER_S)


def test_the_clock_stands_while_paused_and_goes_on_from_there():
    schedule = started(2.0)
    schedule.pause(NOW_NS + 10)
    assert schedule.paused and schedule.due_ns(BAG_NS) is None
    assert schedule.bag_ns(NOW_NS + 10) == schedule.bag_ns(NOW_NS + 10**9) == BAG_NS + 20
    schedule.pause(NOW_NS + 500)  # again: nothing changes
    schedule.resume(NOW_NS + 1000)
    schedule.resume(NOW_NS + 1003)
    assert not schedule.paused and schedule.bag_ns(NOW_NS + 1005) == BAG_NS + 30
    assert schedule.due_ns(BAG_NS + 40) == NOW_NS + 1010


def test_what_was_due_before_a_pause_is_due_at_once_after_it():
    schedule = started()
    schedule.pause(NOW_NS + 100)
    schedule.resume(NOW_NS + 5000)
    assert schedule.due_ns(BAG_NS + 60) == NOW_NS + 5000 - 40


def test_a_new_pass_starts_over_and_stays_paused_if_it_was():
    schedule = started(3.0)
    schedule.start(BAG_NS, NOW_NS + 999)
    assert schedule.bag_ns(NOW_NS + 999) == BAG_NS and schedule.due_ns(BAG_NS + 3) == NOW_NS + 1000
    schedule = started(paused=True)
    schedule.start(BAG_NS + 7, NOW_NS + 50)
    assert schedule.paused and schedule.bag_ns(NOW_NS + 60) == BAG_NS + 7


def test_ticks_are_even_and_missed_ones_are_left_out():
    ticks, period_ns = Ticks(100), 10_000_000
    assert ticks.take(NOW_NS) and not ticks.take(NOW_NS + period_ns - 1)
    taken_ns = [ns for ns in range(NOW_NS, NOW_NS + NS_PER_S, 1_000_003) if ticks.take(ns)]
    assert len(taken_ns) == 99  # looked at 1 ms too seldom to meet them, and not one is lost
    stalled_ns = ticks.next_ns + 20 * period_ns + 5
    assert ticks.take(stalled_ns) and ticks.next_ns == stalled_ns + period_ns


def test_what_went_out_is_counted_and_the_worst_remembered():
    tally = Tally()
    for topic, late_ns in (("/a", 0), ("/b", LATE_NS), ("/a", 2 * LATE_NS + 400_000), ("/a", 5)):
        tally.add(topic, late_ns)
    assert tally.sent == {"/a": 3, "/b": 1}
    assert str(tally) == "4 messages, 1 of them more than 10 ms late (the worst 20.4 ms)"
