"""Every RGB frame is answered once, in order, in time, with the nearest thermal frame there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sync_settings import sync_settings

from fusionproxy_ros.core.frames import Frame, Mode
from fusionproxy_ros.pairing.nearest import NearestSync

MS = 1_000_000
PIXELS = np.zeros((1, 1), np.uint8)
CONFIG = sync_settings(tolerance_ns=20 * MS, deadline_ns=40 * MS, max_hold_ns=200 * MS)


def frame(stamp_ms, arrival_ms=None, offset_ms=1_000_000):
    arrival_ms = stamp_ms if arrival_ms is None else arrival_ms
    return Frame(round((stamp_ms + offset_ms) * MS), "", PIXELS, "", round(arrival_ms * MS))


def run(sync, rgb, thermal, poll_ms=1.0):
    """Deliver both streams in order of arrival and poll in between, as the worker would; all pairs."""
    events = sorted(
        [(f.arrival_ns, 0, f) for f in thermal] + [(f.arrival_ns, 1, f) for f in rgb], key=lambda e: e[:2]
    )
    pairs, now_ns = [], 0
    for arrival_ns, kind, f in events:
        while (due_ns := sync.next_deadline_ns) is not None and due_ns <= arrival_ns:
            now_ns = max(now_ns, due_ns)
            pairs += sync.poll(now_ns)
        now_ns = arrival_ns
        pairs += sync.add_rgb(f) if kind else sync.add_thermal(f)
    while (due_ns := sync.next_deadline_ns) is not None:
        pairs += sync.poll(due_ns)
    return pairs


def stream(steps_ms, delays_ms, start_ms=0.0):
    """Frames with ascending stamps; a later frame never overtakes an earlier one, as DDS guarantees per topic."""
    stamps_ms = start_ms + np.cumsum(steps_ms)
    arrivals_ms = np.maximum.accumulate(stamps_ms + np.resize(delays_ms, len(stamps_ms)))
    return [frame(s, a) for s, a in zip(stamps_ms, arrivals_ms, strict=True)]


steps = st.lists(st.floats(1, 150), min_size=1, max_size=40)
delays = st.lists(st.floats(0, 120), min_size=1, max_size=40)


@pytest.mark.slow
@given(steps, delays, steps, delays, st.floats(-100, 100))
@settings(max_examples=300)
def test_no_frame_is_lost_or_answered_twice_and_each_gets_the_nearest_available_at_its_decision(
    rgb_steps, rgb_delays, thermal_steps, thermal_delays, start_ms
):
    rgb, thermal = stream(rgb_steps, rgb_delays), stream(thermal_steps, thermal_delays, start_ms)
    pairs = run(NearestSync(CONFIG), rgb, thermal)
    assert [p.rgb for p in pairs] == rgb
    for pair in pairs:
        due_ns = pair.rgb.arrival_ns + CONFIG.deadline_ns
        assert pair.ready_ns <= due_ns
        # Whatever arrives by the deadline counts, decided early or not: nothing nearer may come in between.
        here = [t for t in thermal if t.arrival_ns <= (due_ns if pair.ready_ns < due_ns else due_ns - 1)]
        distances = [abs(t.stamp_ns - pair.rgb.stamp_ns) for t in here]
        if distances and min(distances) <= CONFIG.tolerance_ns:
            assert pair.mode is Mode.FUSED and abs(pair.skew_ns) == min(distances)
            assert pair.skew_ns == pair.thermal.stamp_ns - pair.rgb.stamp_ns and not pair.reason
        else:
            assert pair.mode is not Mode.FUSED and pair.reason
        if pair.mode is Mode.HELD:
            assert 0 <= pair.rgb.stamp_ns - pair.thermal.stamp_ns <= CONFIG.max_hold_ns
        if pair.mode is Mode.PASSTHROUGH:
            assert pair.thermal is None


@given(steps, delays, st.lists(st.integers(0, 39), max_size=5), steps, delays)
def test_stamps_that_go_back_lose_no_frame_and_keep_the_order_of_arrival(
    rgb_steps, rgb_delays, jumps, thermal_steps, thermal_delays
):
    rgb = stream(rgb_steps, rgb_delays)
    for index in jumps:
        rgb[index:] = [Frame(f.stamp_ns - 500 * MS, "", PIXELS, "", f.arrival_ns) for f in rgb[index:]]
    pairs = run(NearestSync(CONFIG), rgb, stream(thermal_steps, thermal_delays))
    assert [p.rgb for p in pairs] == rgb


def test_a_pair_is_decided_the_moment_thermal_reaches_the_rgb_stamp():
    sync = NearestSync(CONFIG)
    assert sync.add_rgb(frame(100, 105)) == []
    assert sync.add_thermal(frame(90, 106)) == []  # a nearer one may still come
    (pair,) = sync.add_thermal(frame(103, 112))
    assert pair.skew_ns == 3 * MS and pair.ready_ns == 112 * MS


def test_the_offset_moves_rgb_stamps_to_the_thermal_clock():
    sync = NearestSync(sync_settings(tolerance_ns=5 * MS, thermal_time_offset_ns=3_000 * MS))
    sync.add_thermal(frame(3_098, 100))
    (pair,) = sync.add_rgb(frame(100, 100)) or sync.add_thermal(frame(3_131, 131))
    assert pair.mode is Mode.FUSED and pair.skew_ns == -2 * MS


def test_thermal_that_stops_is_held_then_passed_and_fuses_again_with_its_first_frame():
    rgb = stream([33] * 60, [2])
    thermal = [t for t in stream([33] * 60, [4]) if not 500 <= t.arrival_ns / MS < 1500]
    modes = [p.mode for p in run(NearestSync(CONFIG), rgb, thermal)]
    assert set(modes[:14]) == {Mode.FUSED}
    outage = modes[15:45]
    assert outage == [Mode.HELD] * outage.count(Mode.HELD) + [Mode.PASSTHROUGH] * outage.count(
        Mode.PASSTHROUGH
    )
    assert 5 <= outage.count(Mode.HELD) <= 7  # 200 ms at 30 Hz
    assert set(modes[46:]) == {Mode.FUSED}


def test_a_looped_bag_gives_the_same_pairs_in_every_loop():
    sync, loops = NearestSync(CONFIG), []
    for loop in range(4):
        start_ms = loop * 2_000
        rgb = [
            Frame(f.stamp_ns, "", PIXELS, "", f.arrival_ns + start_ms * MS) for f in stream([33] * 30, [2])
        ]
        thermal = [
            Frame(f.stamp_ns, "", PIXELS, "", f.arrival_ns + start_ms * MS) for f in stream([40] * 25, [5], 3)
        ]
        loops.append([(p.rgb.stamp_ns, p.mode, p.skew_ns) for p in run(sync, rgb, thermal)])
    assert loops[1] == loops[2] == loops[3]
    assert len(loops[1]) == 30 and {mode for _, mode, _ in loops[1]} == {Mode.FUSED}


def test_a_clock_jump_grows_the_epoch_and_forgets_thermal_from_the_future():
    sync = NearestSync(CONFIG)
    sync.add_thermal(frame(5_000, 0))
    (first,) = sync.add_rgb(frame(5_000, 1))
    (second,) = run(sync, [frame(100, 50)], [])
    assert (first.mode, second.mode) == (Mode.FUSED, Mode.PASSTHROUGH)
    assert second.epoch == first.epoch + 1


def test_a_thermal_clock_far_ahead_is_named():
    (pair,) = run(NearestSync(CONFIG), [frame(100)], [frame(90_000, 99)])
    assert pair.mode is Mode.PASSTHROUGH and "thermal_time_offset_s" in pair.reason


def test_a_frame_to_be_passed_through_keeps_its_place_and_does_not_look_like_a_clock_jump():
    sync = NearestSync(CONFIG)
    assert sync.add_rgb(frame(100, 100)) == []
    assert sync.add_rgb(frame(0, 101, offset_ms=0), "RGB stamp is zero") == []  # behind the one that waits
    first, second = sync.add_thermal(frame(101, 110))
    assert first.mode is Mode.FUSED and second.reason == "RGB stamp is zero" and sync.epoch == 0


@pytest.mark.parametrize("count", [10_000])
def test_memory_is_bounded_when_thermal_runs_without_rgb(count):
    sync = NearestSync(CONFIG)
    for i in range(count):
        sync.add_thermal(frame(i))
    assert len(sync._thermal) <= 32


def test_each_pair_gets_the_depth_nearest_to_its_rgb_within_the_tolerance_and_waits_for_none():
    sync = NearestSync(sync_settings(depth_tolerance_ns=50 * MS))
    early, near, late = frame(0), frame(90), frame(160)
    for depth in (early, near, late):
        sync.add_depth(depth)
    sync.add_thermal(frame(100))
    assert sync.add_rgb(frame(100))[0].depth is near
    sync.add_thermal(frame(1000))
    assert sync.add_rgb(frame(1000))[0].depth is None


def test_depth_ignores_the_thermal_clock_and_is_forgotten_at_a_jump():
    sync = NearestSync(sync_settings(thermal_time_offset_ns=5000 * MS, depth_tolerance_ns=50 * MS))
    depth = frame(100)
    sync.add_depth(depth)
    sync.add_thermal(frame(5100))
    assert sync.add_rgb(frame(100))[0].depth is depth
    sync.add_thermal(frame(5050))
    assert sync.add_rgb(frame(50))[0].depth is None


def test_depth_images_do_not_pile_up():
    sync = NearestSync(sync_settings())
    for stamp_ms in range(10_000):
        sync.add_depth(frame(stamp_ms))
    assert len(sync._depth) <= 8
