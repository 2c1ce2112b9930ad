"""What is done to thermal on purpose, and what is measured then, against what can be worked out by hand."""

import cv2
import numpy as np
import pytest

from fusionproxy_ros.core.image_files import InputError
from fusionproxy_ros.metrics import classical, fusion_metrics, robustness
from fusionproxy_ros.metrics.robustness import MAX_SHIFT_PX, MAX_TURN_DEG, moved


def only_luma(luma, thermal):
    return luma


def dot(x, y):
    """A picture of 81 columns and 61 rows that is black but for one pixel at column x and row y."""
    image = np.zeros((61, 81), np.float32)
    image[y, x] = 1
    return image


def centre_of(image):
    rows, columns = np.indices(image.shape)
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


@pytest.mark.parametrize(
    ("turn_deg", "shift_px", "expected"),
    [
        (0, (0, 0), (60, 30)),
        (0, (7, -4), (67, 26)),
        (90, (0, 0), (40, 10)),  # from right of the centre (40, 30) to above it
        (90, (7, -4), (47, 6)),  # the shift is not turned
        (30, (0, 5), (40 + 20 * np.cos(np.pi / 6), 30 - 20 * np.sin(np.pi / 6) + 5)),
    ],
)
def test_a_dot_goes_where_turn_and_shift_send_it(turn_deg, shift_px, expected):
    assert centre_of(moved(dot(60, 30), turn_deg, shift_px)) == pytest.approx(
        expected, abs=0.1
    )  # between pixels, as OpenCV rounds


def test_moving_a_flat_picture_leaves_no_border():
    flat = np.full((61, 81), 0.7, np.float32)
    assert moved(flat, MAX_TURN_DEG, (MAX_SHIFT_PX, -MAX_SHIFT_PX)) == pytest.approx(flat)


# misaligned and useless thermal


def test_misalignment_is_30_px_and_10_degrees_the_same_in_every_run_and_another_for_each_pair():
    def peak(x, y, name):
        spot = np.zeros((201, 301), np.uint8)
        cv2.circle(spot, (x, y), 4, 255, -1)
        moved = robustness.misaligned(spot, name)
        return np.argwhere(moved > 127).mean(0)[::-1]

    headings = set()
    for name in ("msrs/00001N", "msrs/00002N", "m3fd/00001N"):
        centre, right = peak(150, 100, name), peak(220, 100, name)
        assert np.hypot(*(centre - (150, 100))) == pytest.approx(30, abs=0.5)
        turn = np.degrees(np.arctan2(*(right - centre)[::-1]))
        assert abs(turn) == pytest.approx(10, abs=0.5)
        assert (peak(150, 100, name) == centre).all()
        headings.add(tuple(centre.round()))
    assert len(headings) == 3


def test_a_ghost_is_an_edge_of_misaligned_thermal_where_rgb_has_none():
    luma, thermal = np.full((2, 120, 160), 40, np.uint8)
    luma[:, 40:] = 140
    thermal[:, 100:] = 140
    assert robustness.ghost(luma, luma, thermal) == 0
    assert robustness.ghost(classical.average(luma, thermal), luma, thermal) == pytest.approx(1, abs=0.01)
    assert robustness.ghost(thermal, luma, thermal) > 1
    faint = luma + thermal // 4
    assert robustness.ghost(faint, luma, thermal) == pytest.approx(0.25, abs=0.02)


def test_thermal_edges_on_those_of_rgb_are_no_ghosts():
    luma, thermal = np.full((2, 120, 160), 40, np.uint8)
    luma[:, 40:] = 140
    thermal[:, 43:] = 140
    assert robustness.ghost(thermal, luma, thermal) == 0


def test_where_rgb_has_no_edges_none_is_doubled(textures):
    assert robustness.ghost(textures[1], np.full_like(textures[0], 9), textures[1]) == 0


def test_what_useless_thermal_does_to_luma_is_its_worst_psnr(textures):
    luma = textures[0]
    assert robustness.flat_thermal_psnr(luma, only_luma) == float("inf")
    worst = robustness.flat_thermal_psnr(luma, lambda y, t: t)
    assert worst == min(fusion_metrics.psnr(np.full_like(luma, level), luma) for level in (0, 255))
    noise = robustness.noisy_thermal_psnr(luma, lambda y, t: y + (t.astype(float) - 128))
    assert noise == pytest.approx(20 * np.log10(255), abs=0.5)


# video


@pytest.fixture
def clip():
    """Both sources move, and rest in the left half but for noise; 6 frames of 64x96."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(6):
        pair = []
        for step in (7, 11):
            image = rng.integers(60, 62, (64, 96)).astype(np.uint8)
            image[:, 48:] += np.uint8(step * index)
            image[20:40, 50 + step * index // 2 : 70 + step * index // 2] += np.uint8(50)
            pair.append(image)
        frames.append(tuple(pair))
    return frames


def test_a_clip_that_stands_still_does_not_flicker(textures):
    assert robustness.flicker([tuple(textures)] * 4, classical.maximum) == (0, 0)


def test_rgb_itself_flickers_by_one_and_leaves_no_residual(clip):
    assert robustness.flicker(clip, only_luma) == pytest.approx((1, 0), abs=1e-5)


def test_any_fixed_mixture_of_the_sources_leaves_no_residual(clip):
    _, residual = robustness.flicker(clip, lambda y, t: 0.5 * y + 0.25 * t + 30)
    assert residual == pytest.approx(0, abs=1e-5)


def test_a_gain_that_swings_from_frame_to_frame_is_flicker_and_residual(clip):
    swing = iter([0, 8] * 3)

    def swinging(luma, thermal):
        return luma.astype(float) + next(swing)

    flicker, residual = robustness.flicker(clip, swinging)
    noise = 0.5  # mean change of a pixel that is 60 or 61
    assert flicker == pytest.approx(8 / noise, rel=0.1)
    assert residual > 0.3


def write_clip(path, level):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for index in range(5):
        video.write(np.full((48, 64, 3), level + 10 * index, np.uint8))
    video.release()


def test_clips_are_read_in_pairs_and_a_missing_half_is_named(tmp_path):
    write_clip(tmp_path / "b_rgb.mp4", 50)
    write_clip(tmp_path / "b_thermal.mp4", 100)
    ((name, clip),) = robustness.clips(tmp_path)
    assert name == "b" and len(clip) == 5
    assert [round(float(image.mean()), -1) for image in clip[2]] == [70, 120]
    (tmp_path / "b_thermal.mp4").unlink()
    with pytest.raises(InputError, match=r"b_thermal\.mp4"):
        list(robustness.clips(tmp_path))
