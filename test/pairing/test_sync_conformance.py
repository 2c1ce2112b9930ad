"""`sync_policy: nearest` finds what there is to find: as a brute-force optimum does, and the real message_filters."""

import pytest
from camera_streams import (
    MS,
    PATIENT,
    Reference,
    looped,
    message_filters,
    ours,
    passes_of,
    slops,
    topics,
)
from hypothesis import given, settings
from sync_settings import sync_settings

from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.pairing.nearest import NearestSync

needs_message_filters = pytest.mark.skipif(
    message_filters is None,
    reason="message_filters is not here, and in no package registry: apt install ros-$ROS_DISTRO-message-filters",
)


def best(rgb, thermal, slop_ns):
    """RGB stamp -> distance to the nearest of all thermal frames, where it is within slop_ns; from first principles."""
    found = {}
    for frame in rgb:
        distances = [abs(other.stamp_ns - frame.stamp_ns) for other in thermal]
        if distances and min(distances) <= slop_ns:
            found[frame.stamp_ns] = min(distances)
    return found


def fused(pairs):
    """RGB stamp -> |skew| of the FUSED pairs."""
    return {pair.rgb.stamp_ns: abs(pair.skew_ns) for pair in pairs if pair.mode is Mode.FUSED}


@pytest.mark.slow
@given(topics(), topics(), slops)
@settings(max_examples=200)
def test_each_frame_gets_the_nearest_of_all_thermal_frames_and_none_that_has_one_goes_without(
    rgb, thermal, slop_ns
):
    pairs = ours(NearestSync(sync_settings(tolerance_ns=slop_ns, deadline_ns=PATIENT)), rgb, thermal)
    assert [pair.rgb for pair in pairs] == rgb
    assert fused(pairs) == best(rgb, thermal, slop_ns)


@needs_message_filters
@given(topics(), topics(), slops)
@settings(max_examples=200)
def test_every_frame_that_message_filters_pairs_is_fused_and_no_further_apart(rgb, thermal, slop_ns):
    found = fused(ours(NearestSync(sync_settings(tolerance_ns=slop_ns, deadline_ns=PATIENT)), rgb, thermal))
    reference = {a: abs(b - a) for a, b in Reference(slop_ns).run(rgb, thermal)}
    assert reference.keys() <= found.keys()
    assert all(found[stamp_ns] <= skew_ns for stamp_ns, skew_ns in reference.items())


# --- a bag, looped


gaps = pytest.mark.parametrize("gap_ms", [0, 5, 50, 500])
seeds = pytest.mark.parametrize("seed", range(5))


@gaps
@seeds
def test_a_bag_looped_ten_times_gives_the_same_pairs_from_the_second_pass_on(gap_ms, seed):
    rgb, thermal, length = looped(gap_ms * MS, seed)
    pairs = ours(NearestSync(sync_settings(deadline_ns=100 * MS)), rgb, thermal)
    assert [pair.rgb for pair in pairs] == rgb
    passes = passes_of(pairs, length)
    assert {mode for one in passes for _, mode, _ in one} == {Mode.FUSED} and len(passes) == 10
    assert all(one == passes[1] for one in passes[2:])


@gaps
@seeds
def test_thermal_that_still_comes_from_the_pass_before_costs_no_pair(gap_ms, seed):
    """Its pipeline is slower than RGB's: the last thermal frames of a pass follow the first RGB frame of the next."""
    rgb, thermal, length = looped(gap_ms * MS, seed, thermal_lag_ns=60 * MS)
    pairs = ours(NearestSync(sync_settings(deadline_ns=150 * MS)), rgb, thermal)
    fused_per_pass = [sum(mode is Mode.FUSED for _, mode, _ in one) for one in passes_of(pairs, length)]
    assert fused_per_pass == [length] * 10


@needs_message_filters
@gaps
@pytest.mark.parametrize("thermal_hz", [9, 25, 60])
def test_over_ten_passes_of_a_bag_message_filters_finds_no_pair_that_ours_misses(gap_ms, thermal_hz):
    rgb, thermal, _ = looped(gap_ms * MS, seed=0, thermal_hz=thermal_hz)
    pairs = ours(NearestSync(sync_settings(deadline_ns=150 * MS)), rgb, thermal)
    reference = Reference(sync_settings().tolerance_ns).run(rgb, thermal)
    assert sum(pair.mode is Mode.FUSED for pair in pairs) >= len(reference)
