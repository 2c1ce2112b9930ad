"""Calibration from recorded pairs alone: one homography, or the rotation of a known extrinsic."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from fusionproxy_ros.alignment.align_images import AlignmentError, align, centred_guess, corner_distance_px
from fusionproxy_ros.calibrate.from_scenes import checkerboard_overlay, common_homography, correct_rotation
from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.core.pictures import LINE_PX
from fusionproxy_ros.geometry.calibration_files import load_calibration, save_calibration
from fusionproxy_ros.geometry.registration import extrinsic, homography
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

pytestmark = pytest.mark.slow

RGB_PX, THERMAL_PX = (640, 480), (320, 256)
CALIBRATION = default_calibration(RGB_PX, THERMAL_PX)
PLANE_M = 15.0
M3SVD = Path(__file__).parents[3] / "shared" / "data" / "pairs" / "m3svd"


@lru_cache
def road():
    """Pairs of the night road, (480, 640) uint8 and (256, 320) uint16, and the calibration they have."""
    scene = NightRoad(CALIBRATION)
    return [(cv2.cvtColor(scene.rgb(t), cv2.COLOR_RGB2GRAY), scene.thermal(t)) for t in (1.0, 4.0, 16.5)]


@lru_cache
def together():
    return common_homography(road())


def blind():
    """A pair of the same sizes with nothing in common."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (480, 640)).astype(np.uint8), rng.integers(29000, 29100, (256, 320)).astype(
        np.uint16
    )


def turned(degrees):
    turn, _ = cv2.Rodrigues(np.radians(np.array(degrees, float)))
    return replace(CALIBRATION, rotation=CALIBRATION.rotation @ turn)


def off_deg(calibration):
    return np.degrees(np.linalg.norm(cv2.Rodrigues(CALIBRATION.rotation.T @ calibration.rotation)[0]))


def far_homography():
    """What the extrinsic does to things far away near the middle of the picture, distortion left out."""
    h = CALIBRATION.rgb.k @ CALIBRATION.rotation.T @ np.linalg.inv(CALIBRATION.thermal.k)
    return h / h[2, 2]


# --- one homography


def test_pairs_of_one_rig_give_one_homography():
    scenes = together()
    assert scenes.used == (0, 1, 2)
    assert scenes.joint.confidence > 0.5
    middle = np.array([[[159.5, 127.5]]])
    found, expected = (
        cv2.perspectiveTransform(middle, h) for h in (scenes.joint.homography, far_homography())
    )
    assert np.linalg.norm(found - expected) < 6  # the parallax of a 0.1 m baseline at 10 m is 5 px


def test_pairs_that_show_nothing_have_no_say():
    scenes = common_homography([blind(), *road()])
    assert scenes.used == (1, 2, 3)
    assert scenes.pairs[0].confidence < 0.1
    np.testing.assert_allclose(scenes.joint.homography, together().joint.homography)


def test_without_a_confident_pair_the_confidence_is_low():
    scenes = common_homography([blind(), blind()])
    assert scenes.used == ()
    assert scenes.joint.confidence < 0.1


@pytest.mark.skipif(not M3SVD.exists(), reason="the M3SVD pairs are not here (../shared/data/pairs/m3svd)")
def test_real_pairs_together_come_closer_than_each_alone():
    """Registered pairs, the thermal pictures warped by one homography: their own registration limits the truth."""
    warp = np.array([[1.08, 0.03, -20], [-0.02, 1.02, 12], [2e-5, -1e-5, 1]])
    truth = np.array([[1, 0, -80], [0, 1, -60], [0, 0, 1.0]]) @ np.linalg.inv(warp)
    pairs = []
    for path in sorted((M3SVD / "rgb").iterdir())[::16]:
        thermal = cv2.imread(str(next((M3SVD / "thermal").glob(f"{path.stem}.*"))), cv2.IMREAD_GRAYSCALE)
        rgb = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[60:420, 80:560]
        pairs.append((rgb, cv2.warpPerspective(thermal, warp, (680, 500))))
    scenes = common_homography(pairs)
    alone_px = [corner_distance_px(one.homography, truth, (480, 360)) for one in scenes.pairs]
    together_px = corner_distance_px(scenes.joint.homography, truth, (480, 360))
    print(f"alone {np.round(alone_px, 1)}, together {together_px:.1f} px")
    assert together_px < 2
    assert together_px < np.median(alone_px)
    assert scenes.joint.confidence > 0.8


# --- a known extrinsic


@pytest.mark.parametrize("error_deg", [(0, 0, 0), (0.5, -0.8, 0.4), (-2.5, 2.5, 2.0)])
def test_a_rotation_is_corrected(error_deg):
    result = correct_rotation(road(), turned(error_deg), PLANE_M)
    assert result.used == (0, 1, 2)
    assert result.confidence > 0.8
    assert off_deg(result.calibration) < 0.2
    np.testing.assert_allclose(result.turn_deg, -np.array(error_deg), atol=0.25)
    np.testing.assert_array_equal(result.calibration.translation_m, CALIBRATION.translation_m)


def test_a_rotation_is_corrected_from_larger_pictures_of_the_same_camera():
    large = [(cv2.resize(rgb, (1280, 960)), thermal) for rgb, thermal in road()[:2]]
    assert off_deg(correct_rotation(large, turned((0.5, -0.8, 0.4)), PLANE_M).calibration) < 0.2


def test_what_shows_nothing_corrects_nothing():
    given = turned((0.5, -0.8, 0.4))
    result = correct_rotation([blind(), blind()], given, PLANE_M)
    assert result.calibration is given
    assert result.used == ()
    assert result.confidence < 0.1
    assert not result.turn_deg.any()


def test_a_blind_pair_has_no_say_in_the_rotation():
    result = correct_rotation([road()[0], blind(), road()[2]], turned((0.5, -0.8, 0.4)), PLANE_M)
    assert result.used == (0, 2)
    assert result.confidences[1] < 0.1
    assert off_deg(result.calibration) < 0.25


def test_a_corrected_calibration_is_saved_and_read(tmp_path):
    corrected = correct_rotation(road()[:2], turned((0.5, -0.8, 0.4)), PLANE_M).calibration
    save_calibration(corrected, tmp_path / "calibration.yaml")
    np.testing.assert_array_equal(
        load_calibration(tmp_path / "calibration.yaml").rotation, corrected.rotation
    )


# --- the picture


def test_the_overlay_shows_outlines_meeting():
    rgb, thermal = road()[0]
    before = extrinsic(turned((1.5, 2.0, -1.0)), PLANE_M)
    picture = checkerboard_overlay(rgb, thermal, before, extrinsic(CALIBRATION, PLANE_M))
    assert picture.shape == (2 * (480 + LINE_PX), 2 * 640, 3)
    assert picture.dtype == np.uint8

    def meeting(half):
        outlines = half[LINE_PX : LINE_PX + 480].astype(float)
        return (outlines[..., 0] * outlines[..., 1]).mean()

    assert meeting(picture[:, 640:]) > 1.2 * meeting(picture[:, :640])


def test_the_overlay_takes_homographies():
    rgb, thermal = road()[0]
    guess = centred_guess(THERMAL_PX, RGB_PX)
    picture = checkerboard_overlay(
        rgb, thermal, homography(guess), homography(align(rgb, thermal).homography)
    )
    assert picture.shape == (2 * (480 + LINE_PX), 2 * 640, 3)


# --- what cannot be used


def test_errors_name_the_cause_and_the_cure():
    rgb, thermal = road()[0]
    for use in (common_homography, lambda pairs: correct_rotation(pairs, CALIBRATION, PLANE_M)):
        with pytest.raises(AlignmentError, match="no pair of pictures"):
            use([])
        with pytest.raises(AlignmentError, match="differ in picture size"):
            use([(rgb, thermal), (rgb[1:], thermal)])
    with pytest.raises(RegistrationError, match="plane_depth_m"):
        correct_rotation([(rgb, thermal)], CALIBRATION, 0.0)
    with pytest.raises(RegistrationError, match="rgb"):
        correct_rotation([(rgb[:, :500], thermal)], CALIBRATION, PLANE_M)
