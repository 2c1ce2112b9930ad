"""The colour picture has the asked luma and RGB's colour, which fades only where thermal brightens the dark."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_native import variants

from fusionproxy_ros import native
from fusionproxy_ros.colour import DARK, KEPT, LIT, RISE, add_luma

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


def test_colour_fades_by_degrees_so_that_one_level_of_fused_luma_is_at_most_two_of_a_channel():
    brightest = np.arange(256)[:, None]
    assert (np.diff(KEPT.astype(int), axis=1) <= 0).all()
    # No channel is further from the pixel's luma than the brightest is from black.
    steepest = 1 + brightest * -np.diff(KEPT.astype(float), axis=1) / 128
    assert steepest.max() <= 2


@pytest.mark.parametrize("variant", variants())
@given(seed=SEEDS)
def test_every_set_of_instructions_paints_the_picture_that_numpy_paints(variant, seed):
    rgb, luma, fused = random_pictures(seed, 0, 256 if seed % 2 else LIT)
    wanted = add_luma(rgb, luma, fused)
    for threads in 1, 3:
        np.testing.assert_array_equal(native.add_luma(rgb, luma, fused, threads, variant), wanted)


def test_pictures_of_several_sizes_are_refused():
    rgb, luma, fused = random_pictures(0)
    with pytest.raises(ValueError, match="give one size"):
        native.add_luma(rgb, luma, fused[1:])
