"""Counts to grey levels: what the AGC follows, what it ignores, and that nothing flickers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.fusion.gain_control import AgcState, Normaliser, agc_step, to_uint8
from fusionproxy_ros.fusion.settings import GainSettings, NormalisationError

CONFIG = GainSettings()


def scene(low=21000, high=24000, seed=0, dtype=np.uint16, shape=(120, 160)):
    """Counts spread evenly over low..high."""
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(dtype)


def normalise(normaliser, pixels, mask, stamp_ns, epoch):
    """Grey levels of one frame, and the range that they show."""
    low, high = normaliser.follow(pixels, mask, stamp_ns, epoch)
    return SimpleNamespace(pixels=to_uint8(pixels, low, high), low=low, high=high)


def run(states, rate_hz, seconds, pixels, config=CONFIG):
    """Feed the same picture at a rate; returns the last state. The state at the start is from stamp 0."""
    state = states
    for i in range(1, round(rate_hz * seconds) + 1):
        state = agc_step(state, pixels, None, round(i * NS_PER_S / rate_hz), config)
    return state


# --- the AGC in time


def test_first_frame_is_taken_at_once():
    state = agc_step(None, scene(), None, 5, CONFIG)
    assert state.stamp_ns == 5
    assert state.low == pytest.approx(21000 + 0.01 * 3000, abs=20)
    assert state.high == pytest.approx(21000 + 0.999 * 3000, abs=20)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 5.0), st.integers(1, 4))
def test_cameras_of_9_and_30_hz_converge_alike(time_constant_s, seconds):
    config = GainSettings(time_constant_s=time_constant_s)
    start = AgcState(10000.0, 12000.0, 0)
    slow, fast = (run(start, rate_hz, seconds, scene(), config) for rate_hz in (9, 30))
    assert slow.stamp_ns == fast.stamp_ns == seconds * NS_PER_S
    assert slow.low == pytest.approx(fast.low, abs=0.01)
    assert slow.high == pytest.approx(fast.high, abs=0.01)


def test_after_one_time_constant_63_percent_of_a_change_is_followed():
    target = agc_step(None, scene(), None, 0, CONFIG)
    start = AgcState(target.low - 1000, target.high + 1000, 0)
    state = run(start, 30, CONFIG.time_constant_s, scene())
    assert state.low == pytest.approx(target.low - 1000 * math.exp(-1), abs=0.1)
    assert state.high == pytest.approx(target.high + 1000 * math.exp(-1), abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2.0), st.integers(-5000, 5000))
def test_change_of_gain_and_offset_is_recovered(gain, offset):
    normaliser = Normaliser(CONFIG)
    before = normalise(normaliser, scene(), None, 0, 0).pixels.astype(int)
    changed = np.rint(scene() * gain + offset + 10000 - 20000 * (gain - 1)).clip(0, 65535).astype(np.uint16)
    for i in range(1, 9 * 12):
        after = normalise(normaliser, changed, None, i * NS_PER_S // 9, 0).pixels.astype(int)
    assert np.abs(after - before).max() <= 2


def test_constant_scene_with_sensor_noise_does_not_flicker():
    normaliser = Normaliser(CONFIG)
    clean = scene()
    means = []
    for i in range(60):
        noise = np.random.default_rng(i).normal(0, 5, clean.shape)
        pixels = np.rint(clean + noise).astype(np.uint16)
        means.append(normalise(normaliser, pixels, None, i * NS_PER_S // 30, 0).pixels.mean())
    assert np.ptp(means) < 0.5


def test_identical_frames_give_identical_pixels():
    normaliser = Normaliser(CONFIG)
    first = normalise(normaliser, scene(), None, 0, 0)
    for i in range(1, 30):
        again = normalise(normaliser, scene(), None, i * NS_PER_S // 30, 0)
        np.testing.assert_array_equal(again.pixels, first.pixels)
        assert (again.low, again.high) == (first.low, first.high)


def test_held_frame_does_not_advance_the_state():
    state = agc_step(AgcState(0.0, 1000.0, 0), scene(), None, 7, CONFIG)
    assert agc_step(state, scene(5000, 6000), None, 7, CONFIG) is state


def test_backward_stamp_starts_afresh():
    state = AgcState(0.0, 1000.0, 100)
    assert agc_step(state, scene(), None, 99, CONFIG) == agc_step(None, scene(), None, 99, CONFIG)


def test_new_epoch_starts_afresh():
    normaliser = Normaliser(CONFIG)
    normalise(normaliser, scene(1000, 2000), None, 10, 0)
    normalise(normaliser, scene(), None, 10, 1)
    assert normaliser.state == agc_step(None, scene(), None, 10, CONFIG)
    normalise(normaliser, scene(1000, 2000), None, 10, 1)  # held within the new epoch
    assert normaliser.state == agc_step(None, scene(), None, 10, CONFIG)


# --- what counts


def test_flat_scene_is_not_amplified():
    flat = np.rint(np.random.default_rng(0).normal(29815, 5, (120, 160))).astype(np.uint16)
    normalised = normalise(Normaliser(CONFIG), flat, None, 0, 0)
    assert normalised.high - normalised.low == pytest.approx(CONFIG.min_span_counts)
    assert normalised.pixels.std() < 10
    assert abs(normalised.pixels.mean() - 127.5) < 8
    kelvin = (flat / 100).astype(np.float32)
    normalised = normalise(Normaliser(CONFIG), kelvin, None, 0, 0)
    assert normalised.high - normalised.low == pytest.approx(CONFIG.min_span_k)
    assert normalised.pixels.std() < 10


def test_a_few_dead_pixels_do_not_dominate():
    dead = scene(shape=(480, 640))
    clean = agc_step(None, dead, None, 0, CONFIG)
    rng = np.random.default_rng(1)
    dead[rng.integers(0, 480, 150), rng.integers(0, 640, 150)] = 65535
    dead[rng.integers(0, 480, 150), rng.integers(0, 640, 150)] = 0
    state = agc_step(None, dead, None, 0, CONFIG)
    assert state.low == pytest.approx(clean.low, abs=30) and state.high == pytest.approx(clean.high, abs=30)


def test_a_distant_person_is_not_clipped_flat():
    cool = scene(29000, 29400, shape=(480, 640))
    rows, columns = np.mgrid[0:40, 0:14]
    cool[200:240, 300:314] = 30500 + 10 * rows + 5 * columns  # 0.18 % of the picture, warmer than all else
    person = normalise(Normaliser(CONFIG), cool, None, 0, 0).pixels[200:240, 300:314]
    assert (person == 255).mean() < 0.7 and np.ptp(person) > 30


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint16, np.float32]))
def test_pixels_outside_the_mask_are_ignored(seed, dtype):
    rng = np.random.default_rng(seed)
    pixels = scene(seed=seed, dtype=dtype)
    mask = rng.random(pixels.shape) < 0.5
    spoilt = np.where(mask, pixels, rng.integers(0, 65535, pixels.shape)).astype(dtype)
    assert agc_step(None, spoilt, mask, 0, CONFIG) == agc_step(None, pixels, mask, 0, CONFIG)


def test_nan_and_infinity_do_not_count_and_are_mapped_in_order():
    pixels = scene(280, 310, dtype=np.float32)
    expected = agc_step(None, pixels[1:], np.ones((119, 160), bool), 0, CONFIG)
    pixels[0, :] = np.nan
    pixels[0, :40], pixels[0, 40:80], pixels[0, 80:90], pixels[0, 90:100] = np.inf, -np.inf, 3e38, -3e38
    before = pixels.copy()
    mask = np.ones(pixels.shape, bool)
    mask[0, 80:100] = False
    normalised = normalise(Normaliser(CONFIG), pixels, mask, 0, 0)
    assert (normalised.low, normalised.high) == (expected.low, expected.high)
    row = normalised.pixels[0]
    assert (row[:40] == 255).all() and (row[40:80] == 0).all()
    assert (row[80:90] == 255).all() and (row[90:] == 0).all()
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    ("pixels", "mask"),
    [
        (scene(), np.zeros((120, 160), bool)),
        (np.full((120, 160), np.nan, np.float32), None),
    ],
)
def test_frame_without_a_valid_pixel_keeps_the_state(pixels, mask):
    state = AgcState(21000.0, 24000.0, 5)
    assert agc_step(state, pixels, mask, 9, CONFIG) is state
    assert agc_step(None, pixels, mask, 9, CONFIG) is None
    normaliser = Normaliser(CONFIG)
    nothing_yet = normalise(normaliser, pixels, mask, 9, 0)
    assert (nothing_yet.low, nothing_yet.high) == (0, 0) and not nothing_yet.pixels.any()
    assert nothing_yet.pixels.dtype == np.uint8 and nothing_yet.pixels.shape == pixels.shape
    first = normalise(normaliser, scene(), None, 10, 0)
    assert first.high > first.low


# --- the mapping


def test_8_bit_passes_untouched_in_auto():
    pixels = scene(0, 255, dtype=np.uint8)
    normalised = normalise(Normaliser(CONFIG), pixels, None, 0, 0)
    assert normalised.pixels is pixels and (normalised.low, normalised.high) == (0, 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_fixed_range_maps_linearly_and_clips(dtype):
    normaliser = Normaliser(GainSettings(mode="fixed", low=50, high=152))
    pixels = np.array([[0, 49, 50, 51, 101, 151, 152, 153, 255]], dtype)
    normalised = normalise(normaliser, pixels, None, 0, 0)
    np.testing.assert_array_equal(normalised.pixels, [[0, 0, 0, 2, 128, 252, 255, 255, 255]])
    assert normalised.pixels.dtype == np.uint8 and (normalised.low, normalised.high) == (50, 152)
    assert normaliser.state is None


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        arrays(np.uint16, (6, 9)),
        arrays(np.uint8, (6, 9)),
        arrays(np.float32, (6, 9), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    ),
    st.floats(-1000, 60000),
    st.floats(0.01, 1e6),
)
def test_mapping_is_monotonic_and_exact_to_rounding(pixels, low, span):
    grey = to_uint8(pixels, low, low + span)
    assert grey.dtype == np.uint8 and grey.shape == pixels.shape
    order = np.argsort(pixels, axis=None)
    assert (np.diff(grey.ravel()[order].astype(int)) >= 0).all()
    exact = np.clip((pixels.astype(np.float64) - low) / span, 0, 1) * 255
    # Computed in float32: its resolution at the counts' size, times the gain.
    resolution = 2.0**-23 * (abs(low) + span) * 255 / span
    assert np.abs(grey - exact).max() <= 0.51 + resolution


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint16, (8, 12), elements=st.integers(0, 65535)))
def test_agc_range_is_ordered_and_at_least_the_minimal_span(pixels):
    state = agc_step(None, pixels, None, 0, CONFIG)
    assert state.high - state.low >= CONFIG.min_span_counts - 1e-6


# --- errors name cause and cure


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"mode": "automatic"}, 'mode is "automatic": set auto or fixed'),
        ({"low": 10, "high": 10}, "low is 10 and high is 10: set low below high"),
        ({"low": math.nan}, "low is nan .*: set low below high"),
        ({"high": math.inf}, "high is inf: set low below high"),
        ({"time_constant_s": 0}, "time_constant_s is 0: set seconds above 0"),
        ({"time_constant_s": math.nan}, "time_constant_s is nan: set seconds above 0"),
        ({"min_span_counts": 0}, "min_span_counts is 0: set at least"),
        ({"min_span_k": -1}, "min_span_k is -1: set at least"),
    ],
)
def test_bad_configuration_is_refused(settings_, message):
    with pytest.raises(NormalisationError, match=message) as error:
        GainSettings(**settings_)
    assert isinstance(error.value, FusionError)


def test_a_jump_of_the_cameras_level_is_followed_at_once_and_a_gradual_change_smoothly():
    config = GainSettings(time_constant_s=1.0)
    ramp = np.linspace(0, 1000, 4096).reshape(64, 64)
    state = agc_step(None, (20_000 + ramp).astype(np.uint16), None, 0, config)
    near = agc_step(state, (20_500 + ramp).astype(np.uint16), None, 33_000_000, config)
    far = agc_step(state, (25_000 + ramp).astype(np.uint16), None, 33_000_000, config)
    assert state.low < near.low < 20_100 and far.low > 24_900
