"""sync_policy: with ROS's own message_filters choosing the pairs, deadline, order and hold stay ours."""

import sys

import numpy as np
import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

from camera_streams import (
    MS,
    PATIENT,
    START_NS,
    Reference,
    frames,
    looped,
    ours,
    passes_of,
    slops,
    topics,
)
from hypothesis import given, settings
from sync_settings import sync_settings

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.ros.message_filters_sync import FilteredSync, make_sync


@pytest.fixture
def filters():
    return pytest.importorskip("message_filters", reason="message_filters is not here, and in no registry")


@given(topics(), topics(), slops)
@settings(max_examples=60, deadline=None)
def test_approximate_time_fuses_exactly_the_pairs_of_message_filters(rgb, thermal, slop):
    pytest.importorskip("message_filters", reason="message_filters is not here, and in no registry")
    pairs = ours(
        FilteredSync(sync_settings(policy="approximate_time", tolerance_ns=slop, deadline_ns=PATIENT)),
        rgb,
        thermal,
    )
    assert [pair.rgb for pair in pairs] == rgb
    fused = {pair.rgb.stamp_ns: pair.thermal.stamp_ns for pair in pairs if pair.mode is Mode.FUSED}
    assert fused == dict(Reference(slop).run(rgb, thermal))
    assert all(pair.reason for pair in pairs if pair.mode is not Mode.FUSED)


def test_exact_time_fuses_equal_stamps_alone(filters):
    rgb = frames(START_NS + np.arange(50) * 33 * MS, np.full(50, 5 * MS))
    thermal = frames(START_NS + np.arange(25) * 66 * MS, np.full(25, 9 * MS))
    pairs = ours(FilteredSync(sync_settings(policy="exact_time")), rgb, thermal)
    assert [pair.mode is Mode.FUSED for pair in pairs] == [True, False] * 25
    assert [pair.rgb for pair in pairs] == rgb


def test_a_looped_bag_gives_as_many_pairs_in_every_pass(filters):
    rgb, thermal, count = looped(50 * MS, 0)
    pairs = ours(FilteredSync(sync_settings(policy="approximate_time", deadline_ns=150 * MS)), rgb, thermal)
    fused = [sum(mode is Mode.FUSED for _, mode, _ in one) for one in passes_of(pairs, count)]
    assert fused[1] > 0 and len(set(fused[1:])) == 1


def test_nearest_is_ours_and_a_missing_package_says_what_to_install(monkeypatch):
    assert type(make_sync(sync_settings())) is NearestSync
    monkeypatch.setitem(sys.modules, "message_filters", None)  # as if it were not installed
    with pytest.raises(
        FusionError, match=r"apt install ros-\$ROS_DISTRO-message-filters, or set sync_policy"
    ):
        make_sync(sync_settings(policy="exact_time"))
