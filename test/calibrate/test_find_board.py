"""The board is found in thermal as in RGB, whatever its contrast."""

import cv2
import numpy as np
import pytest
from rendered_boards import BOARD, RGB, THERMAL, corners, counts, pose, render, thermal_view, to_thermal

from fusionproxy_ros.calibrate.board import Board, BoardError
from fusionproxy_ros.calibrate.find_board import find_board
from fusionproxy_ros.geometry import lens

pytestmark = pytest.mark.slow


def error_px(found, expected):
    """RMS, in whichever of the two orders a half turn apart."""
    assert found is not None, "board not found"
    return min(np.sqrt(((order - expected) ** 2).sum(1).mean()) for order in (found, found[::-1]))


@pytest.mark.parametrize("index", [5, 6, 7])
def test_rgb_corners_are_found_to_a_tenth_of_a_pixel(index):
    picture = render(RGB, *pose(index))
    noisy = (picture + np.random.default_rng(0).normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
    assert error_px(find_board(cv2.merge([noisy] * 3), BOARD), corners(RGB, *pose(index))) < 0.1


@pytest.mark.parametrize("index", [0, 6])
@pytest.mark.parametrize(
    "contrast",
    [
        {"dark": 300, "light": 0, "around": -3000},  # heated: dark squares emit more
        {"dark": 0, "light": 300, "around": 1500},  # inverted, before a warm background
        {"dark": 60, "light": 0, "around": -3000, "noise": 6},  # nearly uniform
    ],
    ids=["heated", "inverted", "low contrast"],
)
def test_thermal_corners_are_found_under_a_hot_spot_whatever_the_contrast(index, contrast):
    picture, expected = thermal_view(index, **contrast)
    assert error_px(find_board(picture, BOARD), expected) < 0.3


def test_a_board_of_which_only_a_part_is_hot_is_found():
    picture, expected = thermal_view(2, dark=0, light=0, around=-500, noise=0)
    shaded, _ = thermal_view(2, dark=300, light=0, around=-500, noise=0)
    share = np.linspace(0.12, 1, picture.shape[1])
    mixed = picture + share * (shaded.astype(float) - picture)
    noisy = mixed + np.random.default_rng(0).normal(0, 5, mixed.shape)
    assert error_px(find_board(noisy.astype(np.uint16), BOARD), expected) < 0.3


def test_a_small_sensor_with_dead_pixels_is_read():
    lepton = lens.scaled(THERMAL, (200, 160), "thermal")
    where = to_thermal(*pose(0))
    picture = counts(render(lepton, *where, dark=300, light=0, around=-500)).astype(np.float32)
    picture[5, 5:9] = np.nan
    assert error_px(find_board(picture, BOARD), corners(lepton, *where)) < 0.2


@pytest.mark.parametrize(
    "board",
    [Board("circles", 7, 5, 0.04), Board("asymmetric_circles", 4, 11, 0.025)],
    ids=lambda b: b.pattern,
)
@pytest.mark.parametrize("contrast", [(200, 0), (0, 200)], ids=["dark", "bright"])
def test_circles_are_found_in_either_contrast(board, contrast):
    where = to_thermal(*pose(2, board))
    picture = counts(render(THERMAL, *where, board, *contrast, around=-200), noise=3)
    found = find_board(picture, board)
    expected = corners(THERMAL, *where, board)
    error = (
        np.sqrt(((found - expected) ** 2).sum(1).mean()) if board.has_one_order else error_px(found, expected)
    )
    assert error < 0.4  # a circle's centre is not the centre of its picture


@pytest.mark.parametrize(
    "other", [Board("checkerboard", 8, 6, 0.03), Board("checkerboard", 8, 5, 0.03)], ids=str
)
def test_a_board_of_another_size_is_not_found(other):
    assert find_board(render(RGB, *pose(0)).astype(np.uint8), other) is None


def test_pictures_without_a_board_show_none():
    rng = np.random.default_rng(0)
    for picture in (np.zeros((240, 320), np.uint16), rng.integers(0, 255, (240, 320), np.uint8)):
        assert find_board(picture, BOARD) is None


@pytest.mark.parametrize("dark, light", [(30, 220), (220, 30)])
def test_the_order_neither_mirrors_the_board_nor_depends_on_its_contrast(dark, light):
    found = find_board(render(RGB, *pose(5), dark=dark, light=light).astype(np.uint8), BOARD)
    np.testing.assert_allclose(found, corners(RGB, *pose(5)), atol=0.3)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("chess", 9, 6, 0.03), "pattern 'chess' is unknown"),
        (("checkerboard", 7, 7, 0.03), "looks the same after a quarter turn"),
        (("checkerboard", 9, 2, 0.03), "too small"),
        (("checkerboard", 9, 6, 0.0), "square_m is 0.0"),
    ],
)
def test_an_unusable_board_is_refused_with_the_reason(arguments, told):
    with pytest.raises(BoardError, match=told):
        Board(*arguments)
