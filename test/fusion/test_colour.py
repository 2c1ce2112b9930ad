"""The colour picture has the asked luma and RGB's colour, which fades only where thermal brightens the dark."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.fusion.colour import DARK, LIT, RISE, add_luma

SEEDS = st.integers(0, 2**32 - 1)


def random_pictures(seed, low=0, high=256, size=(17, 40)):
    """RGB, its luma, and another luma."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(low, high, (*size, 3), np.uint8)
    return rgb, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), rng.integers(0, 256, size, np.uint8)


@given(SEEDS)
def test_a_lit_picture_keeps_its_colour_and_reaches_the_asked_luma_where_nothing_clips(seed):
    rgb, luma, other = random_pictures(seed, LIT, 176)
    wanted = np.clip(other, np.maximum(luma, LIT) - LIT, luma + 79).astype(np.uint8)
    out = add_luma(rgb, luma, wanted)
    np.testing.assert_array_equal(out.astype(int) - out[..., :1], rgb.astype(int) - rgb[..., :1])
    assert np.abs(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY).astype(int) - wanted).max() <= 1


@given(SEEDS)
def test_what_is_not_brightened_keeps_its_colour_in_the_dark_too(seed):
    rgb, luma, other = random_pictures(seed, 0, LIT)
    wanted = np.minimum(luma, other)
    plain = np.clip(rgb.astype(int) + (wanted.astype(int) - luma)[..., None], 0, 255)
    np.testing.assert_array_equal(add_luma(rgb, luma, wanted), plain)


@given(SEEDS)
def test_what_thermal_brightens_in_the_dark_is_grey_and_of_the_asked_luma(seed):
    rgb, luma, other = random_pictures(seed, 0, DARK)
    wanted = np.maximum(other, luma + RISE)
    np.testing.assert_array_equal(add_luma(rgb, luma, wanted), np.dstack([wanted] * 3))


def test_a_blue_lamp_stays_blue_though_its_luma_is_that_of_the_dark():
    lamp = np.full((4, 4, 3), (0, 0, 180), np.uint8)
    luma = cv2.cvtColor(lamp, cv2.COLOR_RGB2GRAY)
    assert luma.max() < DARK
    out = add_luma(lamp, luma, luma + 50).astype(int)
    np.testing.assert_array_equal(out[..., 2] - out[..., 0], 180)


@given(SEEDS)
def test_half_a_level_of_fused_luma_is_no_more_than_one_of_any_channel(seed):
    rgb, luma, other = random_pictures(seed, 0, LIT)
    one = np.minimum(luma + (RISE + 5) * (other / 255), 255).astype(np.float32)
    two = one + np.random.default_rng(seed).uniform(-0.5, 0.5, one.shape).astype(np.float32)
    assert cv2.absdiff(add_luma(rgb, luma, one), add_luma(rgb, luma, two)).max() <= 1
