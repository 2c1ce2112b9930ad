"""The board is found in thermal as in RGB, and what is solved from it is the truth that the views were drawn from."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from fusionproxy_ros import lens
from fusionproxy_ros.calibrate.board import Board, BoardError, View, calibrate_stereo, find_board
from fusionproxy_ros.frames import Calibration, Camera

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "calibration"
BOARD = Board("checkerboard", 9, 6, 0.03)
RGB = Camera(640, 480, np.array([[900.0, 0, 330], [0, 900, 230], [0, 0, 1]]), d=np.array([-0.25, 0.1, 0, 0]))
THERMAL = Camera(
    400, 320, np.array([[520.0, 0, 195], [0, 520, 165], [0, 0, 1]]), d=np.array([-0.3, 0.12, 0, 0])
)
TRUTH = Calibration(
    RGB, THERMAL, cv2.Rodrigues(np.array([0.02, 0.09, 0.01]))[0], np.array([-0.08, 0.01, 0.005])
)
# Rotation vectors (degrees) and the board's centre (metres) before the RGB camera.
POSES = [
    ((0, 0, 0), (0, 0, 0.60)),
    ((35, 0, 5), (-0.05, -0.03, 0.62)),
    ((-35, 5, 0), (0.05, 0.04, 0.60)),
    ((0, 35, -8), (0.04, -0.05, 0.58)),
    ((5, -38, 0), (-0.06, 0.05, 0.62)),
    ((25, 25, 20), (0.0, 0.03, 0.70)),
    ((-25, 28, -25), (0.06, 0.0, 0.75)),
    ((20, -30, 80), (0.02, 0.0, 0.68)),
    ((-15, 15, 45), (-0.08, -0.06, 0.85)),
    ((30, -10, -45), (0.10, 0.08, 0.90)),
    ((10, 30, 0), (0.12, -0.10, 0.95)),
    ((-30, -20, 10), (-0.12, 0.10, 0.90)),
]


def pose(index, board=BOARD):
    """Rotation and translation, board to RGB camera; the board's centre at the given place."""
    turn, centre_m = POSES[index]
    rotation = cv2.Rodrigues(np.radians(np.array(turn, float)))[0]
    return rotation, np.array(centre_m) - rotation @ board.points_m().mean(axis=0)


def to_thermal(rotation, translation_m, truth=TRUTH):
    return truth.rotation @ rotation, truth.rotation @ translation_m + truth.translation_m


def corners(camera, rotation, translation_m, board=BOARD):
    return lens.project(camera, board.points_m() @ rotation.T + translation_m)[0]


def pattern(board, x, y):
    """1 where the board is dark (square or circle), 0 elsewhere on it, NaN off it; x, y in spacings."""
    columns, rows = board.points_m()[:, :2].max(axis=0) / board.square_m
    on_board = (x > -2) & (x < columns + 2) & (y > -2) & (y < rows + 2)
    if board.pattern == "checkerboard":
        squares = (x > -1) & (x < columns + 1) & (y > -1) & (y < rows + 1)
        dark = squares & ((np.floor(x) + np.floor(y)) % 2 == 0)
    else:
        points = board.points_m()[:, :2] / board.square_m
        radius = 0.3 if board.pattern == "circles" else 0.5
        dark = np.zeros(x.shape, bool)
        for px, py in points:
            dark |= (x - px) ** 2 + (y - py) ** 2 < radius**2
    return np.where(on_board, dark.astype(np.float32), np.float32(np.nan))


@lru_cache(maxsize=4)
def ray_grid(camera, oversample):
    """(H * W * oversample^2, 3) rays of a camera's pixels."""
    width, height = camera.width_px * oversample, camera.height_px * oversample
    u, v = np.meshgrid(
        (np.arange(width) + 0.5) / oversample - 0.5, (np.arange(height) + 0.5) / oversample - 0.5
    )
    rays = lens.rays(camera, np.column_stack([u.ravel(), v.ravel()]))[0]
    return np.column_stack([rays, np.ones(len(rays))])


def render(camera, rotation, translation_m, board=BOARD, dark=30.0, light=220.0, around=120.0, oversample=3):
    """(H, W) float32: what the camera sees of the board, box-filtered."""
    rays = ray_grid(camera, oversample)
    normal = rotation[:, 2]
    points_m = rays * (normal @ translation_m / (rays @ normal))[:, None]
    x, y, _ = ((points_m - translation_m) @ rotation / board.square_m).T
    shade = pattern(board, x, y).reshape(camera.height_px * oversample, -1)
    picture = np.where(np.isnan(shade), around, light + (dark - light) * np.nan_to_num(shade))
    return cv2.resize(
        picture.astype(np.float32), (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA
    )


def counts(picture, seed=0, noise=15.0):
    """16-bit counts: a warm spot and a gradient far above the board's own contrast, and noise."""
    height, width = picture.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    spot = 4000 * np.exp(
        -(((x - 0.6 * width) / (0.35 * width)) ** 2 + ((y - 0.5 * height) / (0.4 * height)) ** 2)
    )
    picture = 20000 + picture + spot + 2000 * x / width
    return (picture + np.random.default_rng(seed).normal(0, noise, picture.shape)).astype(np.uint16)


def error_px(found, expected):
    """RMS, in whichever of the two orders a half turn apart."""
    assert found is not None, "board not found"
    return min(np.sqrt(((order - expected) ** 2).sum(1).mean()) for order in (found, found[::-1]))


def thermal_view(index, dark, light, around, **more):
    where = to_thermal(*pose(index))
    return counts(render(THERMAL, *where, dark=dark, light=light, around=around), index, **more), corners(
        THERMAL, *where
    )


# --- finding


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


# --- solving


def exact_views(noise_px=(0.1, 0.15), truth=TRUTH, seed=1):
    rng = np.random.default_rng(seed)
    views = []
    for index in range(len(POSES)):
        where = pose(index)
        rgb, thermal = corners(truth.rgb, *where), corners(truth.thermal, *to_thermal(*where, truth))
        rgb, thermal = (
            np.float32(points + rng.normal(0, px, points.shape))
            for points, px in zip((rgb, thermal), noise_px, strict=True)
        )
        views.append(View(f"{index:02}", rgb, thermal))
    return views


def solve(views):
    return calibrate_stereo(views, BOARD, (640, 480), (400, 320))


def turn_deg(a, b):
    return np.degrees(np.linalg.norm(cv2.Rodrigues(a @ b.T)[0]))


def transfer_error_px(calibration, depth_m, truth=TRUTH):
    """RMS distance between where two calibrations put RGB pixels of the middle in the thermal image."""
    pixels = np.stack(np.meshgrid(np.linspace(100, 540, 9), np.linspace(80, 400, 7)), -1).reshape(-1, 2)

    def thermal(c):
        directions, _ = lens.rays(c.rgb, pixels)
        points_m = depth_m * np.column_stack([directions, np.ones(len(pixels))])
        return lens.project(c.thermal, points_m @ c.rotation.T + c.translation_m)[0]

    return np.sqrt(((thermal(calibration) - thermal(truth)) ** 2).sum(1).mean())


def test_rendered_boards_give_the_cameras_they_were_rendered_with():
    views = []
    for index in range(1, 9):
        rgb = find_board(render(RGB, *pose(index)).astype(np.uint8), BOARD)
        thermal = find_board(thermal_view(index, dark=300, light=0, around=-1000)[0], BOARD)
        views.append(View(f"{index:02}", rgb, thermal))
    assert sum(view.rgb is not None and view.thermal is not None for view in views) >= 6
    result = solve(views)
    assert not result.rejected
    assert result.rms_px < 0.2
    assert turn_deg(result.calibration.rotation, TRUTH.rotation) < 1
    np.testing.assert_allclose(result.calibration.translation_m, TRUTH.translation_m, atol=0.005)
    assert result.calibration.rgb.k[0, 0] == pytest.approx(900, rel=0.01)
    assert result.calibration.thermal.k[0, 0] == pytest.approx(520, rel=0.01)
    assert transfer_error_px(result.calibration, 0.7) < 0.3
    assert transfer_error_px(result.calibration, 14.0) < 0.7


def test_the_stated_uncertainty_is_the_error_one_finds():
    results = [solve(exact_views(seed=seed)) for seed in range(2)]
    for depth_m, stated in ((0.7, "board_px"), (14.0, "far_px")):
        error_px = np.sqrt(np.mean([transfer_error_px(r.calibration, depth_m) ** 2 for r in results]))
        claimed_px = np.median([getattr(r.uncertainty, stated) for r in results])
        assert claimed_px / 3 < error_px < 2 * claimed_px, stated


def test_rms_is_per_view_and_overall_what_the_noise_was():
    result = solve(exact_views(noise_px=(0.2, 0.2)))
    assert result.rms_px == pytest.approx(0.2 * np.sqrt(2), rel=0.1)  # both axes
    stereo_px = np.array([quality.stereo_px for quality in result.quality])
    assert np.sqrt((stereo_px**2).mean()) == pytest.approx(result.rms_px, rel=1e-3)
    assert [quality.name for quality in result.quality] == [f"{i:02}" for i in range(len(POSES))]
    assert result.quality[1].tilt_deg == pytest.approx(35, abs=2)
    assert result.quality[1].depth_m == pytest.approx(0.62, abs=0.02)


def half_turn(points):
    return np.ascontiguousarray(points[::-1])


def test_orders_that_differ_by_a_half_turn_between_views_and_cameras_are_reconciled():
    views = exact_views()
    for index in (1, 4, 7):
        views[index] = replace(views[index], thermal=half_turn(views[index].thermal))
    views[2] = replace(views[2], rgb=half_turn(views[2].rgb))
    result = solve(views)
    assert not result.rejected
    assert turn_deg(result.calibration.rotation, TRUTH.rotation) < 0.5


@pytest.mark.parametrize("roll_deg", [90, 180])
def test_a_thermal_camera_mounted_on_its_side_or_head_is_understood(roll_deg):
    roll = cv2.Rodrigues(np.array([0, 0, np.radians(roll_deg)]))[0]
    truth = replace(TRUTH, rotation=roll @ TRUTH.rotation, translation_m=roll @ TRUTH.translation_m)
    views = exact_views(truth=truth)
    for index, view in enumerate(views):  # as find_board orders: to the right
        if view.thermal[8, 0] < view.thermal[0, 0]:
            views[index] = replace(view, thermal=half_turn(view.thermal))
    assert turn_deg(solve(views).calibration.rotation, truth.rotation) < 0.5


def test_views_that_are_no_pair_are_left_out_and_named():
    views = exact_views()
    moved = pose(3)[0], pose(3)[1] + (0.008, 0, 0)  # 8 mm between the exposures
    views[3] = replace(views[3], thermal=np.float32(corners(THERMAL, *to_thermal(*moved))))
    views[6] = replace(views[6], thermal=views[8].thermal)
    result = solve(views)
    assert result.rejected.keys() == {"03", "06"}
    assert "board moved between the exposures, or not a pair" in result.rejected["03"]
    assert transfer_error_px(result.calibration, 0.7) < 0.5


def test_a_view_with_misplaced_corners_is_left_out_and_named():
    views = exact_views()
    wrong = views[5].thermal + np.random.default_rng(0).normal(0, 3, (54, 2)).astype(np.float32)
    views[5] = replace(views[5], thermal=wrong)
    result = solve(views)
    assert result.rejected.keys() == {"05"}
    assert "thermal corners" in result.rejected["05"]


def test_good_views_are_kept():
    assert not solve(exact_views(noise_px=(0.15, 0.4))).rejected


def test_views_of_one_camera_alone_count_for_that_camera():
    views = exact_views()
    views[0] = replace(views[0], rgb=None)
    views[1] = replace(views[1], thermal=None)
    result = solve(views)
    assert result.quality[0].rgb_px is None and result.quality[0].thermal_px is not None
    assert result.quality[0].stereo_px is None and result.quality[1].stereo_px is None
    assert transfer_error_px(result.calibration, 0.7) < 0.5


def test_too_few_views_are_refused_with_the_cure():
    views = [replace(view, thermal=None) for view in exact_views()[2:]] + exact_views()[:2]
    with pytest.raises(BoardError, match=r"only 2 of 12 views .*RGB 12, thermal 2.*: take 10 or more"):
        solve(views)


def test_views_that_are_all_the_same_are_refused_with_the_cure():
    with pytest.raises(BoardError, match=r"too much alike .*: take more, with the board tilted differently"):
        solve([replace(exact_views()[0], name=str(i)) for i in range(8)])


def test_what_the_views_do_not_determine_is_said():
    few = solve(exact_views()[:5])
    assert any("only 5 views" in warning for warning in few.warnings)
    flat = [views for views in exact_views() if views.name in ("00",)]
    rng = np.random.default_rng(3)
    for index in range(1, 8):
        rotation = cv2.Rodrigues(rng.normal(0, 0.03, 3))[0]
        where = rotation, pose(index)[1] * (1, 1, 0) + (0, 0, 0.6)
        flat.append(
            View(
                str(index),
                np.float32(corners(RGB, *where) + rng.normal(0, 0.1, (54, 2))),
                np.float32(corners(THERMAL, *to_thermal(*where)) + rng.normal(0, 0.15, (54, 2))),
            )
        )
    assert any("tilt it by 30 to 45 degrees" in warning for warning in solve(flat).warnings)


# --- the real boards


@pytest.mark.skipif(
    not DATA.is_dir(), reason="the calibration pictures are not here (../shared/data/calibration)"
)
@pytest.mark.parametrize("rig", ["", "2"], ids=["rgb-thermal", "rgb2-thermal2"])
def test_the_real_heated_board_calibrates_both_rigs(rig):
    from fusionproxy_ros.calibrate.views import from_folders

    shots = from_folders(DATA / f"rgb{rig}", DATA / f"thermal{rig}", BOARD)
    assert shots.found["thermal"] >= 7  # at least 14 of 16 over both rigs
    result = calibrate_stereo(shots.views, BOARD, shots.rgb_size_px, shots.thermal_size_px)
    assert result.rms_px <= 0.75
    assert result.rejected.keys() == {"000000067"}  # both rigs saw the board move then
    # Two like rigs: what one says holds for the other.
    assert turn_deg(result.calibration.rotation, np.eye(3)) == pytest.approx(5.7, abs=0.4)
    baseline_squares = np.linalg.norm(result.calibration.translation_m) / BOARD.square_m
    assert baseline_squares == pytest.approx(3.5, abs=0.15)
