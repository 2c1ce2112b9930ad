"""What is solved from views of a board is the truth that the views were drawn from."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered_boards import (
    BOARD,
    POSES,
    RGB,
    THERMAL,
    TRUTH,
    corners,
    pose,
    render,
    thermal_view,
    to_thermal,
    turn_deg,
)

from fusionproxy_ros.calibrate.board import BoardError, BoardView
from fusionproxy_ros.calibrate.collect import from_folders
from fusionproxy_ros.calibrate.find_board import find_board
from fusionproxy_ros.calibrate.solve import calibrate_stereo
from fusionproxy_ros.geometry import lens

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data" / "calibration"


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
        views.append(BoardView(f"{index:02}", rgb, thermal))
    return views


def solve(views):
    return calibrate_stereo(views, BOARD, (640, 480), (400, 320))


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
        views.append(BoardView(f"{index:02}", rgb, thermal))
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
            BoardView(
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
    shots = from_folders(DATA / f"rgb{rig}", DATA / f"thermal{rig}", BOARD)
    assert shots.found["thermal"] >= 7  # at least 14 of 16 over both rigs
    result = calibrate_stereo(shots.views, BOARD, shots.rgb_size_px, shots.thermal_size_px)
    assert result.rms_px <= 0.75
    assert result.rejected.keys() == {"000000067"}  # both rigs saw the board move then
    # Two like rigs: what one says holds for the other.
    assert turn_deg(result.calibration.rotation, np.eye(3)) == pytest.approx(5.7, abs=0.4)
    baseline_squares = np.linalg.norm(result.calibration.translation_m) / BOARD.square_m
    assert baseline_squares == pytest.approx(3.5, abs=0.15)
