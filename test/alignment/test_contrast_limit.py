"""Misaligned thermal never outshines RGB's own edges; aligned thermal, and what only it sees, keep their contrast."""

import cv2
import numpy as np
import pytest
from camera_models import outlines
from hypothesis import given
from hypothesis import strategies as st

from fusionproxy_ros.alignment.contrast_limit import (
    LEAST_CONTRAST,
    LOOK_PERIOD_S,
    RATE_PER_S,
    ContrastLimit,
    tolerated_contrast,
    with_contrast,
)
from fusionproxy_ros.core.frames import NS_PER_S, Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.gain_control import sample_step, to_uint8
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import homography, identity

pytestmark = pytest.mark.slow

SIZE = 160, 213
FRAME_NS = NS_PER_S // 30


def beside(picture):
    """Shifted by 10 px and turned by 10 degrees."""
    motion = cv2.getRotationMatrix2D((SIZE[1] / 2, SIZE[0] / 2), 10, 1)
    motion[:, 2] += 8, -6
    return cv2.warpAffine(picture, motion, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)


def noise(sigma, seed=1):
    return np.rint(120 + np.random.default_rng(seed).normal(0, sigma, SIZE)).astype(np.uint8)


def strongest(picture):
    """Mean gradient of the twentieth of the pixels where it is steepest."""
    gradient = np.hypot(*np.gradient(cv2.blur(picture.astype(np.float32), (2, 2))))
    return np.sort(gradient, axis=None)[-(gradient.size // 20) :].mean()


# --- what one picture allows


def test_misaligned_thermal_is_brought_down_to_the_contrast_of_rgb():
    luma, thermal = outlines(50), beside(outlines(80))
    shown = to_uint8(thermal, *with_contrast(0, 255, tolerated_contrast(luma, thermal)))
    assert strongest(luma) < 0.8 * strongest(thermal)
    assert strongest(shown) == pytest.approx(strongest(luma), rel=0.03)
    assert tolerated_contrast(outlines(10), thermal) == LEAST_CONTRAST


def test_aligned_thermal_keeps_its_contrast_whatever_is_warm():
    for warm in (1, -1):  # of each rectangle: as light as in RGB, or the opposite
        assert tolerated_contrast(outlines(30), outlines(80, signs=(-warm, warm))) == 1


def test_misaligned_thermal_that_is_weaker_than_rgb_keeps_its_contrast():
    assert tolerated_contrast(outlines(80), beside(outlines(60))) == 1


@pytest.mark.parametrize("luma", [noise(0), noise(2), noise(8)])
def test_where_rgb_shows_nothing_thermal_keeps_its_contrast(luma):
    """In the dark and in fog: there is nothing to double."""
    assert tolerated_contrast(luma, outlines(80)) == 1


def test_only_what_the_thermal_camera_sees_counts():
    real = np.zeros(SIZE, bool)
    real[:, 70:] = True
    thermal = outlines(80)
    thermal[~real] = beside(thermal)[~real]
    assert tolerated_contrast(outlines(50), thermal, real) == 1
    thermal = beside(outlines(80))
    thermal[~real] = outlines(80)[~real]
    luma = np.where(real, outlines(50), outlines(110))
    assert tolerated_contrast(luma, thermal, real) < 0.8
    assert tolerated_contrast(outlines(50), thermal, np.zeros(SIZE, bool)) == 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_two_pictures_of_one_size_have_an_answer_in_range(height, width, seed):
    luma, thermal = np.random.default_rng(seed).integers(0, 256, (2, height, width), np.uint8)
    assert LEAST_CONTRAST <= tolerated_contrast(luma, thermal) <= 1


@given(st.floats(-1e4, 1e4), st.floats(1, 1e4), st.floats(LEAST_CONTRAST, 1))
def test_a_range_with_less_contrast_has_its_middle_where_it_was(low, span, contrast):
    lower, higher = with_contrast(low, low + span, contrast)
    assert lower + higher == pytest.approx(2 * low + span, abs=1e-6 * span)
    assert (higher - lower) * contrast == pytest.approx(span)


# --- over time


@pytest.mark.parametrize("hz", [5, 30, 120])
def test_contrast_moves_at_its_rate_at_any_frame_rate(hz):
    limit = ContrastLimit()
    follow = [limit.follow(lambda: 1.0, 0, 0)]
    for n in range(1, 2 * hz + 1):
        follow.append(limit.follow(lambda: LEAST_CONTRAST, n * NS_PER_S // hz, 0))
    steps = -np.diff(follow)
    assert follow[0] == 1 and follow[-1] == LEAST_CONTRAST
    assert (steps >= 0).all() and steps.max() == pytest.approx(RATE_PER_S / hz, rel=1e-3)
    reached_s = np.argmin(follow) / hz
    assert (
        (1 - LEAST_CONTRAST) / RATE_PER_S
        <= reached_s
        <= (1 - LEAST_CONTRAST) / RATE_PER_S + LOOK_PERIOD_S + 1 / hz
    )


def test_it_looks_twice_a_second_and_at_the_first_frame_of_an_epoch():
    looks, limit = [], ContrastLimit()
    for n in range(61):
        limit.follow(lambda n=n: looks.append(n) or 1.0, n * FRAME_NS, 0)
    assert len(looks) == pytest.approx(2 / LOOK_PERIOD_S + 1, abs=1) and looks[0] == 0
    assert limit.follow(lambda: 0.7, 61 * FRAME_NS, 1) == 0.7


def test_stamps_that_go_back_are_looked_at_too():
    limit = ContrastLimit()
    limit.follow(lambda: 1.0, 100 * NS_PER_S, 0)
    assert limit.follow(lambda: 0.5, 99 * NS_PER_S, 0) == pytest.approx(0.5)


# --- in the fuser


@pytest.fixture(scope="module")
def student():
    return read_weights(DEFAULT_STUDENT)


def pair_of(luma, counts):
    rgb = Frame(1, "", cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), "rgb8")
    return Pair(rgb, Frame(1, "", counts, "mono16"), Mode.FUSED)


def test_thermal_that_is_held_down_has_so_much_less_contrast(student):
    luma, counts = outlines(30), outlines(80).astype(np.uint16) * 40
    fuser = Fuser(student, GainSettings(), "cpu", 1)
    fused = fuser.fuse(pair_of(luma, beside(counts)), identity())
    assert LEAST_CONTRAST <= fused.thermal_contrast < 1
    fuser = Fuser(student, GainSettings(), "cpu", 1)
    aligned = fuser.fuse(pair_of(luma, counts), identity())
    assert aligned.thermal_contrast == 1
    spans = [high - low for low, high in (aligned.thermal_range, fused.thermal_range)]
    assert spans[1] == pytest.approx(spans[0] / fused.thermal_contrast, rel=0.01)
    assert np.ptp(fused.thermal) == pytest.approx(fused.thermal_contrast * np.ptp(aligned.thermal), abs=2)


def test_a_fuser_that_was_warmed_up_looks_at_the_first_frame(student):
    luma, counts = outlines(30), beside(outlines(80).astype(np.uint16) * 40)
    cold, warm = (Fuser(student, GainSettings(), "cpu", 1) for _ in range(2))
    warm.warm_up()
    assert warm.fuse(pair_of(luma, counts), identity()).thermal_contrast < 1
    np.testing.assert_array_equal(
        *(each.fuse(pair_of(luma, counts), identity()).pixels for each in (cold, warm))
    )


def test_a_calibration_that_puts_thermal_in_its_place_frees_it(student):
    luma, counts = outlines(30), outlines(80).astype(np.uint16) * 40
    # Thermal shows things so far to the right and below.
    shift = np.array([[1, 0, 12], [0, 1, 9], [0, 0, 1.0]])
    moved = cv2.warpPerspective(counts, shift, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
    contrasts = {
        name: Fuser(student, GainSettings(), "cpu", 1)
        .fuse(pair_of(luma, moved), registration)
        .thermal_contrast
        for name, registration in (("identity", identity()), ("calibrated", homography(np.linalg.inv(shift))))
    }
    assert contrasts["identity"] < 0.9 and contrasts["calibrated"] == 1


# --- real pairs


def sampled(image):
    step = sample_step(image.size)
    return image[::step, ::step]


def test_no_aligned_real_pair_is_held_down(shared_data):
    from fusionproxy_ros.distill.data import find_pairs, load

    examples = map(load, find_pairs(shared_data / "pairs"))
    assert not [
        example.file.id
        for example in examples
        if tolerated_contrast(sampled(example.luma), sampled(example.thermal)) < 1
    ]


def test_real_thermal_30_px_and_10_degrees_off_never_outshines_rgb_s_own_edges(shared_data, student):
    from fusionproxy_ros.distill.data import find_pairs, load, split
    from fusionproxy_ros.metrics.robustness import ghost, misaligned

    fuser = Fuser(student, GainSettings(), "cpu", 2)
    for example in map(load, split(find_pairs(shared_data / "pairs"))[1]):
        luma = np.ascontiguousarray(example.luma)
        thermal = misaligned(example.thermal, f"{example.file.set}/{example.file.id}")
        contrast = tolerated_contrast(sampled(luma), sampled(thermal))
        shown = to_uint8(thermal, *with_contrast(0, 255, contrast))
        assert ghost(fuser.fuse_luma(luma, shown, None), luma, thermal) < 1, example.file.id


@pytest.mark.parametrize("seen, noise", [(0.2, 2), (0.2, 4), (0.1, 2), (0.1, 4), (0.05, 2)])
def test_real_thermal_keeps_its_contrast_while_rgb_fades_in_fog(shared_data, seen, noise):
    from fusionproxy_ros.distill.data import find_pairs, load

    rng, contrasts = np.random.default_rng(0), []
    for example in map(load, find_pairs(shared_data / "pairs")[::3]):
        luma = sampled(example.luma)
        fogged = 200 + seen * (luma - 200.0) + rng.normal(0, noise, luma.shape)
        fogged = np.rint(np.clip(fogged, 0, 255)).astype(np.uint8)
        contrasts.append(tolerated_contrast(fogged, sampled(example.thermal)))
    print(f"{np.mean(np.array(contrasts) < 1):.3f} of the pairs held down, to {min(contrasts):.2f}")
    assert np.mean(contrasts) > 0.995
