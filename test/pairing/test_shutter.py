"""A thermal camera that repeats itself or looks at its shutter is not looked at; a quiet scene is."""

from itertools import pairwise

import numpy as np
import pytest
from sync_settings import sync_settings

from fusionproxy_ros.core.frames import Frame, Mode
from fusionproxy_ros.pairing.frozen_thermal import FrozenThermalDetector
from fusionproxy_ros.pairing.nearest import NearestSync

MS = 1_000_000
PERIOD_MS = 33
FROZEN_AFTER_NS = 200 * MS


def scene(seed, dtype=np.uint16, low=28_000, span=2_000):
    """A gradient with a little noise, which no two frames share."""
    noise = np.random.default_rng(seed).normal(0, span / 200, (120, 160))
    return (low + span * np.linspace(0, 1, 160) + noise).astype(dtype)


def reasons(images, period_ms=PERIOD_MS):
    detector = FrozenThermalDetector()
    return [
        detector.check(Frame((i + 1) * period_ms * MS, "", image, ""), FROZEN_AFTER_NS)
        for i, image in enumerate(images)
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_live_camera_always_counts(dtype):
    span = 200 if dtype == np.uint8 else 2_000
    assert not any(reasons([scene(i, dtype, 20, span) for i in range(60)]))


def test_an_image_that_repeats_counts_for_a_while_and_then_is_frozen_until_it_changes():
    told = reasons([scene(0)] * 12 + [scene(1)])
    assert not any(told[:7]) and all("frozen: the same image for" in reason for reason in told[8:12])
    assert told[12] == ""


def test_repeats_of_a_slow_camera_behind_a_fast_driver_count():
    assert not any(reasons([scene(i // 4) for i in range(60)]))  # 7.5 Hz shown at 30 Hz


def test_nan_of_dead_pixels_does_not_hide_that_an_image_repeats():
    image = scene(0, np.float32)
    image[3, 4] = np.nan
    assert "frozen" in reasons([image.copy() for _ in range(12)])[-1]


@pytest.mark.parametrize("level", [1_000, 29_000, 80_000])
def test_a_shutter_is_flat_at_any_level_saturated_too_and_passes(level):
    shutter = [
        level + np.linspace(0, 20, 160) + np.random.default_rng(i).normal(0, 10, (120, 160))
        for i in range(10)
    ]
    shutter = [np.clip(image, 0, 65_535).astype(np.uint16) for image in shutter]
    told = reasons([scene(i) for i in range(30)] + shutter + [scene(99)])
    assert (
        not any(told[:30])
        and all("flat" in told[i] or "frozen" in told[i] for i in range(30, 40))
        and told[40] == ""
    )


def test_random_bytes_are_refused_and_the_next_good_frame_counts():
    garbage = [np.random.default_rng(i).integers(0, 65_536, (120, 160), np.uint16) for i in range(30)]
    told = reasons([scene(i) for i in range(5)] + garbage + [scene(99)])
    assert all("garbage" in reason for reason in told[5:35]) and told[35] == ""


def test_a_camera_that_never_showed_a_scene_is_taken_as_it_is():
    assert not any(reasons([np.full((120, 160), 90 + i % 2, np.uint8) for i in range(30)]))


def test_a_scene_that_slowly_loses_its_contrast_is_never_refused():
    assert not any(reasons([scene(i, span=2_000 * 0.97**i) for i in range(200)]))


def test_frozen_thermal_is_held_then_passed_through_with_the_reason_and_fuses_again_with_its_first_new_frame():
    sync = NearestSync(
        sync_settings(tolerance_ns=40 * MS, max_hold_ns=500 * MS, frozen_after_ns=FROZEN_AFTER_NS)
    )
    rgb = np.zeros((1, 1, 3), np.uint8)
    pairs = []
    for i in range(1, 60):
        stamp_ns = i * PERIOD_MS * MS
        image = scene(i if i < 20 or i >= 50 else 20)
        thermal = Frame(stamp_ns, "", image, "", stamp_ns)
        sync.add_thermal(thermal, sync.why_not_live(thermal))
        pairs += sync.add_rgb(Frame(stamp_ns, "", rgb, "rgb8", stamp_ns))
    modes = [pair.mode for pair in pairs]
    changes = [modes[0], *(b for a, b in pairwise(modes) if a != b)]
    assert len(pairs) == 59 and changes == [Mode.FUSED, Mode.HELD, Mode.PASSTHROUGH, Mode.FUSED]
    assert modes[49] is Mode.FUSED  # frame 50 is the first new one
    assert all("frozen" in pair.reason for pair in pairs if pair.mode is not Mode.FUSED)
    assert all(
        pair.ready_ns == pair.rgb.arrival_ns for pair in pairs
    )  # no frame waits for what will not come


def enter(sync, stamp_ms, image):
    """Why it did not count."""
    thermal = Frame(stamp_ms * MS, "", image, "")
    not_live = sync.why_not_live(thermal)
    sync.add_thermal(thermal, not_live)
    return not_live


def enter_rgb(sync, stamp_ms):
    sync.add_rgb(Frame(stamp_ms * MS, "", np.zeros((1, 1, 3), np.uint8), "rgb8"))


@pytest.mark.parametrize(
    "jump, goes_on_at_ms",
    [
        pytest.param(lambda sync: None, 1_000, id="thermal"),
        pytest.param(lambda sync: enter_rgb(sync, 1_000), 6_000, id="RGB"),
        pytest.param(lambda sync: sync.reset(0), 6_000, id="the clock"),
    ],
)
def test_where_time_jumps_back_the_image_of_before_and_its_scene_are_forgotten(jump, goes_on_at_ms):
    sync = NearestSync(sync_settings(frozen_after_ns=FROZEN_AFTER_NS))
    shutter = np.full((120, 160), 29_000, np.uint16)
    enter_rgb(sync, 5_000)
    assert [enter(sync, 5_000 + 150 * i, scene(0)) != "" for i in range(3)] == [False, False, True]
    assert "flat" in enter(sync, 5_500, shutter)
    jump(sync)
    told = [enter(sync, goes_on_at_ms + 150 * i, shutter) for i in range(3)]
    assert told[:2] == ["", ""], "this camera may see nothing else"
    assert "frozen: the same image for 0.3 s" in told[2], "counted from the first frame after the jump"


def test_frames_of_the_pass_before_that_still_come_after_a_jump_of_rgb_freeze_nothing():
    sync = NearestSync(sync_settings(frozen_after_ns=FROZEN_AFTER_NS))
    enter_rgb(sync, 5_000)
    enter(sync, 5_000, scene(0))
    enter_rgb(sync, 1_000)
    told = [enter(sync, stamp_ms, scene(0)) for stamp_ms in (5_150, 1_000, 1_150)]
    assert told == ["", "", ""]


def test_thermal_is_not_looked_at_where_frozen_images_count():
    sync = NearestSync(sync_settings(frozen_after_ns=0))
    assert not any(enter(sync, 100 * i, scene(0)) for i in range(30))
