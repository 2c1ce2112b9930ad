"""The online alignment check: right within 2 px where the pictures say so, silent where they do not."""

import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionproxy_ros.alignment.drift import (
    DEADBAND_PX,
    MARGIN,
    RATE_PX_PER_S,
    WINDOW_S,
    Misalignment,
    MisalignmentError,
    MisalignmentMonitor,
    corrected_shift,
    correlate,
)
from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.fusion.gain_control import Normaliser, to_uint8
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.geometry.registration import extrinsic
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data"
CLIPS = {"0111_1716": 30, "0117_1605": 30, "1230_1202": 22}  # frames per second
SIZE = 480, 640
PERIOD_S = 0.4


# --- pictures with known truth


def outlines(seed, shapes=60):
    """(luma, thermal) float32 of one set of shapes: independent contrast, some seen by one camera only."""
    rng = np.random.default_rng(seed)
    luma, thermal = np.full(SIZE, 110, np.float32), np.full(SIZE, 90, np.float32)
    for _ in range(shapes):
        centre = int(rng.uniform(0, SIZE[1])), int(rng.uniform(0, SIZE[0]))
        axes = rng.integers(10, 70, 2).tolist()
        corners = cv2.boxPoints((centre, axes, rng.uniform(0, 90))).astype(np.int32)
        seen_by = rng.choice(("both", "both", "rgb", "thermal"))
        if seen_by != "thermal":
            cv2.fillConvexPoly(luma, corners, rng.uniform(20, 230), cv2.LINE_AA)
        if seen_by != "rgb":
            cv2.fillConvexPoly(thermal, corners, rng.uniform(40, 200), cv2.LINE_AA)
    return luma, cv2.GaussianBlur(thermal, (0, 0), 1.5)


def noisy(pixels, seed, sigma=3.0):
    noise = np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def jpeg(pixels, quality=30):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def moved(pixels, shift_px):
    """The picture's content moved by (dx, dy); beyond the rim the nearest pixel, as registration does."""
    matrix = np.float32([[1, 0, shift_px[0]], [0, 1, shift_px[1]]])
    return cv2.warpAffine(pixels, matrix, pixels.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def valid_after(shift_px, shape=SIZE):
    matrix = np.float32([[1, 0, shift_px[0]], [0, 1, shift_px[1]]])
    return cv2.warpAffine(np.ones(shape, np.uint8), matrix, shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)


def flat(grey):
    return np.full(SIZE, grey, np.float32)


def stripes(angles, period_px=16):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    waves = [np.sin(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / period_px) for a in np.radians(angles)]
    return 128 + 60 * np.sign(sum(waves))


def feed(monitor, pictures, start_s=0.0, epoch=0):
    """Estimates for a sequence of (luma, thermal, mask), PERIOD_S apart, as [(t_s, estimate)]."""
    answers = []
    for i, (luma, thermal, mask) in enumerate(pictures):
        t_s = start_s + i * PERIOD_S
        answers.append((t_s, monitor.update(luma, thermal, mask, round(t_s * NS_PER_S), epoch)))
    return answers


def judge(luma, thermal, mask=None, updates=7):
    """The estimate of a camera that stands still."""
    return feed(MisalignmentMonitor(), [(luma, thermal, mask)] * updates)[-1][1]


def error_px(estimate, shift_px):
    return np.hypot(*np.subtract(estimate.shift_px, shift_px))


# --- it finds the shift


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.floats(-12, 12), st.floats(-12, 12))
def test_a_known_shift_is_found_though_contrasts_differ(seed, dx_px, dy_px):
    luma, thermal = outlines(seed)
    shift_px = dx_px, dy_px
    estimate = judge(noisy(luma, seed), noisy(moved(thermal, shift_px), seed + 1), valid_after(shift_px))
    assert estimate is not None
    assert error_px(estimate, shift_px) < 1
    assert 0.95 <= estimate.confidence <= 1


@pytest.mark.parametrize("coding", [lambda pixels: pixels, jpeg], ids=["raw", "jpeg"])
def test_an_inverted_picture_lies_where_the_picture_lies(coding):
    luma = noisy(outlines(3)[0], 0)
    estimate = judge(coding(luma), coding(moved(255 - luma, (-7, 4))))
    assert error_px(estimate, (-7, 4)) < 0.5


def test_sampling_thermal_at_the_shift_removes_it():
    luma, thermal = outlines(5)
    luma, thermal = noisy(luma, 0), noisy(moved(thermal, (6, -3)), 1)
    dx_px, dy_px = judge(luma, thermal).shift_px
    x, y = np.meshgrid(np.arange(SIZE[1], dtype=np.float32), np.arange(SIZE[0], dtype=np.float32))
    sampled = cv2.remap(thermal, x + dx_px, y + dy_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert judge(luma, sampled).size_px < 0.5


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_unit_is_the_rgb_pixel_at_every_image_size(factor):
    luma, thermal = (cv2.resize(pixels, None, fx=factor, fy=factor) for pixels in outlines(7))
    shift_px = 8 * factor, -5 * factor
    estimate = judge(noisy(luma, 0), noisy(moved(thermal, shift_px), 1))
    assert error_px(estimate, shift_px) < 2 * factor


def test_a_small_thermal_view_is_judged_by_what_it_shows():
    luma, thermal = outlines(11)
    mask = np.zeros(SIZE, bool)
    mask[100:400, 120:560] = True
    thermal = np.where(mask, noisy(moved(thermal, (5, 5)), 1), 0).astype(np.uint8)
    assert error_px(judge(noisy(luma, 0), thermal, mask), (5, 5)) < 1


def test_invented_pixels_do_not_count():
    luma, thermal = (noisy(pixels, i) for i, pixels in enumerate(outlines(11)))
    mask = np.zeros(SIZE, bool)
    mask[100:400, 120:560] = True
    rubbish = np.where(mask, thermal, noisy(flat(128), 2, sigma=60))
    np.testing.assert_allclose(
        correlate(luma, thermal, mask), correlate(luma, rubbish, mask), rtol=0, atol=1e-6
    )
    assert not correlate(luma, thermal, np.zeros(SIZE, bool)).any()
    assert MARGIN > 4  # a Gaussian of sigma 1 in float reaches 4 px, the derivative one more


def test_rotation_shows_as_spread_and_not_as_shift():
    luma, thermal = outlines(13, shapes=120)
    roll = cv2.getRotationMatrix2D((320, 240), 0.8, 1.0)
    rolled = cv2.warpAffine(thermal, roll, SIZE[::-1], borderMode=cv2.BORDER_REPLICATE)
    straight, tilted = (judge(noisy(luma, 0), noisy(pixels, 1)) for pixels in (thermal, rolled))
    assert straight.spread_px < 1
    assert tilted.size_px < 1.5
    assert 1.5 < tilted.spread_px < 4  # 0.8 degrees move the middle of each half by 2.2 or 1.7 px


# --- it abstains

OUTLINES, OTHER = outlines(17), outlines(18)
FOG = cv2.resize(np.random.default_rng(0).uniform(120, 200, (5, 7)).astype(np.float32), SIZE[::-1])
NOTHING_TO_COMPARE = {
    "blank wall": (flat(120), flat(100)),
    "darkness": (flat(5), OUTLINES[1]),
    "smoke": (0.02 * OUTLINES[0] + 0.98 * FOG, OUTLINES[1]),
    "thermal shutter": (OUTLINES[0], flat(100)),
    "another scene": (OUTLINES[0], OTHER[1]),
    "upright edges only": (stripes([0]), 255 - stripes([0])),
    "level edges only": (stripes([90]), stripes([90])),
    "a repeated pattern": (stripes([20, 110]), stripes([20, 110])),
}


@pytest.mark.parametrize("coding", [lambda pixels: pixels, jpeg], ids=["raw", "jpeg"])
@pytest.mark.parametrize("name", NOTHING_TO_COMPARE)
def test_it_abstains_on(name, coding):
    luma, thermal = NOTHING_TO_COMPARE[name]
    moving = [(coding(noisy(luma, i)), coding(noisy(thermal, 100 + i)), None) for i in range(10)]
    assert [estimate for _, estimate in feed(MisalignmentMonitor(), moving)] == [None] * 10
    assert judge(*moving[0]) is None, "fixed noise is no evidence either, however often it is seen"


def test_one_visible_thing_alone_does_not_decide():
    luma, thermal = flat(120), flat(100)
    for pixels, grey in ((luma, 220), (thermal, 30)):
        cv2.fillConvexPoly(pixels, np.int32([(240, 160), (280, 175), (270, 220), (245, 210)]), grey)
    assert judge(noisy(luma, 0), noisy(thermal, 1)) is None


def test_a_shift_beyond_the_range_is_not_taken_for_one_within():
    luma, thermal = outlines(19)
    assert judge(noisy(luma, 0), noisy(moved(thermal, (30, 0)), 1)) is None


# --- state


def still(shift_px=(0.0, 0.0), count=20):
    luma, thermal = outlines(23)
    thermal = moved(thermal, shift_px)
    return [(noisy(luma, i), noisy(thermal, 50 + i), None) for i in range(count)]


def first_report_s(answers):
    return next(t_s for t_s, estimate in answers if estimate)


def test_it_speaks_after_half_a_window_and_again_so_late_after_each_reset():
    monitor, pictures = MisalignmentMonitor(), still()
    assert WINDOW_S / 2 <= first_report_s(feed(monitor, pictures)) <= WINDOW_S / 2 + PERIOD_S
    monitor.reset()
    for start_s, epoch in ((20, 0), (5, 0), (25, 1), (10, "other")):  # reset, stamps back, epoch, both
        answers = feed(monitor, pictures, start_s, epoch)
        assert WINDOW_S / 2 <= first_report_s(answers) - start_s <= WINDOW_S / 2 + PERIOD_S
        assert answers[-1][1].span_s <= WINDOW_S
        assert answers[-1][1].stamp_ns == round(answers[-1][0] * NS_PER_S)


def test_another_image_size_starts_afresh():
    monitor, pictures = MisalignmentMonitor(), still(count=8)
    assert feed(monitor, pictures)[-1][1]
    smaller = [(luma[:400], thermal[:400], None) for luma, thermal, _ in pictures]
    assert first_report_s(feed(monitor, smaller, start_s=4.0)) >= 4 + WINDOW_S / 2


def test_a_frame_seen_twice_is_not_evidence_twice():
    monitor, (luma, thermal, _) = MisalignmentMonitor(), still(count=1)[0]
    assert not any(monitor.update(luma, thermal, None, 1, 0) for _ in range(10))


def test_five_pixels_of_drift_are_reported_and_not_before_they_are_sure():
    shift_px = (-3.0, 4.0)
    answers = feed(MisalignmentMonitor(), still() + still(shift_px, count=25))
    step_s = 20 * PERIOD_S
    after = [(t_s - step_s, estimate) for t_s, estimate in answers if t_s >= step_s and estimate]
    wrong_s = [t_s for t_s, estimate in after if error_px(estimate, shift_px) > 2]
    right_s = [t_s for t_s, estimate in after if error_px(estimate, shift_px) <= 2]
    assert max(wrong_s, default=0) < 1, "for a moment nobody can know; then it must fall silent"
    assert min(right_s) < 5


def test_an_update_takes_less_than_40_ms():
    monitor, times_s = MisalignmentMonitor(), []
    for i, picture in enumerate(still()):
        start_s = time.thread_time()
        monitor.update(*picture, i * NS_PER_S // 4, 0)
        times_s.append(time.thread_time() - start_s)
    assert np.median(times_s) < 0.040


# --- refinement


def estimate_of(dx_px, dy_px, span_s=WINDOW_S):
    return Misalignment((dx_px, dy_px), 0.0, 1.0, stamp_ns=1, span_s=span_s)


@settings(deadline=None)
@given(*[st.floats(-20, 20)] * 4, st.floats(0, 15), st.floats(2, 4))
def test_a_correction_is_bounded_in_length_and_rate(x_px, y_px, dx_px, dy_px, max_px, span_s):
    before = corrected_shift((0.0, 0.0), estimate_of(x_px, y_px, 1e9), max_px)
    after = corrected_shift(before, estimate_of(dx_px, dy_px, span_s), max_px)
    assert np.hypot(*after) <= max_px + 1e-9
    assert np.hypot(*np.subtract(after, before)) <= RATE_PX_PER_S * span_s + 1e-9


def test_no_estimate_and_a_negligible_one_leave_the_correction_as_it_is():
    assert corrected_shift((3.0, 1.0), None, 8.0) == (3.0, 1.0)
    assert corrected_shift((3.0, 1.0), estimate_of(0.9 * DEADBAND_PX, 0), 8.0) == (3.0, 1.0)


def test_a_correction_at_its_bound_rests_and_a_lower_bound_holds_at_once():
    assert corrected_shift((3.0, 0.0), estimate_of(4.0, 0.5), 3.0) == (3.0, 0.0)
    assert corrected_shift((3.0, 0.0), None, 2.0) == pytest.approx((2.0, 0.0))
    assert corrected_shift((3.0, 0.0), None, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("max_px, left_px", [(8.0, (0, 1.5)), (3.0, (1.8, 2.5)), (0.0, (4.8, 5.5))])
def test_refinement_removes_what_its_bound_allows(max_px, left_px):
    """The loop a node runs: every change of the correction is another epoch."""
    shift_px, correction_px, monitor = (4.0, -3.0), (0.0, 0.0), MisalignmentMonitor()
    luma, thermal = outlines(29)
    for i in range(30):
        remaining = moved(thermal, np.subtract(shift_px, correction_px))
        stamp_ns = round(i * PERIOD_S * NS_PER_S)
        estimate = monitor.update(noisy(luma, i), noisy(remaining, 50 + i), None, stamp_ns, correction_px)
        correction_px = corrected_shift(correction_px, estimate, max_px)
    assert left_px[0] <= np.hypot(*np.subtract(shift_px, correction_px)) <= left_px[1]


# --- errors


def test_pictures_that_cannot_be_compared_are_named():
    monitor, good = MisalignmentMonitor(), np.zeros(SIZE, np.uint8)
    for luma, thermal, mask, cause in (
        (good.astype(np.float32), good, None, "luma is float32"),
        (good, np.zeros((*SIZE, 3), np.uint8), None, "thermal is uint8 of shape"),
        (good, good[:400], None, "register thermal on the RGB grid first"),
        (good, good, good, "mask is uint8"),
        (good, good, np.ones((3, 3), bool), "register thermal on the RGB grid first"),
        (good[:40], good[:40], None, "at least"),
    ):
        with pytest.raises(MisalignmentError, match=cause):
            monitor.update(luma, thermal, mask, 1, 0)


# --- rendered and real footage


def test_the_night_road_is_aligned_and_its_injected_drift_is_found():
    calibration = default_calibration()
    road, registration = NightRoad(calibration, seed=1), extrinsic(calibration, plane_depth_m=20.0)
    normaliser, step_s, shift_px, pictures = Normaliser(GainSettings()), 2.8, (5, 0), []
    for i in range(19):
        t_s = i * PERIOD_S
        registered = registration.register(road.thermal(t_s), SIZE[::-1])
        thermal_range = normaliser.follow(registered.pixels, registered.mask, i, 0)
        thermal = to_uint8(registered.pixels, *thermal_range)
        luma, mask = cv2.cvtColor(road.rgb(t_s), cv2.COLOR_RGB2GRAY), registered.mask
        if t_s >= step_s:
            thermal, mask = moved(thermal, shift_px), moved(mask.astype(np.uint8), shift_px).astype(bool)
        pictures.append((luma, thermal, mask))
    answers = feed(MisalignmentMonitor(), pictures)
    before = [estimate for t_s, estimate in answers if t_s < step_s and estimate]
    assert before and max(estimate.size_px for estimate in before) < 1
    assert error_px(answers[-1][1], shift_px) < 1


@cache
def clip(name, count=40):
    """(luma, thermal) of frames PERIOD_S apart, back and forth."""
    if not (DATA / "video").exists():
        pytest.skip("the clips are not here (../shared/data/video)")
    frames = []
    for kind in ("rgb", "thermal"):
        video, read = cv2.VideoCapture(str(DATA / "video" / f"{name}_{kind}.mp4")), []
        while (picture := video.read()[1]) is not None:
            read.append(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        frames.append(read)
    last = len(frames[0]) - 1
    indices = (last - abs(last - round(i * PERIOD_S * CLIPS[name]) % (2 * last)) for i in range(count))
    return [(frames[0][i], frames[1][i]) for i in indices]


@pytest.mark.parametrize("name", CLIPS)
def test_five_pixels_of_drift_in_real_footage_are_reported_within_ten_seconds(name):
    native = feed(MisalignmentMonitor(), [(*pair, None) for pair in clip(name)[:15]])[-1][1]
    assert native is not None and native.size_px < 2  # as the clips were registered
    for shift_px in ((5, 0), (-3, 4), (0, -5)):
        drifted = [
            (luma, moved(thermal, shift_px) if i >= 15 else thermal, None)
            for i, (luma, thermal) in enumerate(clip(name))
        ]
        after = feed(MisalignmentMonitor(), drifted)[15:]
        truth_px = np.add(native.shift_px, shift_px)
        late = [estimate for t_s, estimate in after if t_s >= (15 * PERIOD_S) + 5]
        assert all(late) and max(error_px(estimate, truth_px) for estimate in late) < 2


@pytest.mark.parametrize("name", CLIPS)
def test_real_footage_without_a_common_scene_says_nothing(name):
    rng = np.random.default_rng(0)
    pairs = clip(name)[:12]
    dense = [noisy(0.01 * luma + 0.99 * FOG, rng) for luma, _ in pairs]
    dark = [noisy(flat(5), rng) for _ in pairs]
    mirrored = [np.ascontiguousarray(luma[:, ::-1]) for luma, _ in pairs]
    elsewhere = [luma for luma, _ in clip(next(other for other in CLIPS if other != name))[:12]]
    for hidden in (dense, dark, mirrored, elsewhere):
        pictures = [(luma, thermal, None) for luma, (_, thermal) in zip(hidden, pairs, strict=True)]
        assert not any(estimate for _, estimate in feed(MisalignmentMonitor(), pictures))


def test_single_night_and_day_pairs_follow_an_injected_shift_and_no_other_scene():
    if not (DATA / "pairs").exists():
        pytest.skip("the pairs are not here (../shared/data/pairs)")
    rng, errors_px, told, previous = np.random.default_rng(0), [], 0, None
    paths = sorted((DATA / "pairs" / "msrs" / "rgb").iterdir())[::5]
    for path in paths:
        luma = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        thermal = cv2.imread(str(next((path.parent.parent / "thermal").glob(f"{path.stem}.*"))), 0)
        shift_px = rng.uniform(-12, 12, 2)
        native = judge(luma, thermal)
        estimate = judge(luma, moved(thermal, shift_px), valid_after(shift_px))
        if native and estimate:
            told += 1
            errors_px.append(error_px(estimate, np.add(native.shift_px, shift_px)))
        assert previous is None or judge(previous, thermal) is None
        previous = luma
    assert max(errors_px) < 1
    assert told > 0.7 * len(paths)
