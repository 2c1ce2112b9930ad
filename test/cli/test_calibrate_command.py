"""`fusionproxy calibrate`: what it needs, and what comes out of recorded scenes."""

import json

import cv2
import numpy as np
import pytest
from camera_models import street

from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.geometry.calibration_files import load_homography


@pytest.fixture
def drive(tmp_path):
    """Two recorded pairs of one rig: thermal lies (8, -5) px off RGB, in inverted contrast."""
    for name in ("rgb", "thermal"):
        (tmp_path / name).mkdir()
    for index in range(2):
        rgb, thermal = street((640, 480), (8, -5))
        if index:  # the same places in another light
            rgb, thermal = np.ascontiguousarray(rgb[:, ::-1]), np.ascontiguousarray(thermal[:, ::-1])
            thermal = np.roll(thermal, 16, axis=1)
        cv2.imwrite(str(tmp_path / f"rgb/{index}.png"), rgb)
        cv2.imwrite(str(tmp_path / f"thermal/{index}.png"), thermal)
    return tmp_path


def calibrate(folder, *more):
    return main(
        [
            "calibrate",
            "--rgb",
            f"{folder}/rgb",
            "--thermal",
            f"{folder}/thermal",
            "--out",
            f"{folder}/out",
            *more,
        ]
    )


@pytest.mark.slow
def test_scenes_become_a_homography_that_the_node_reads_with_pictures_and_numbers_to_judge_it_by(drive):
    assert calibrate(drive, "--from-scenes") == 0
    h = load_homography(drive / "out/homography.yaml")
    for x, y in ((100, 100), (500, 400)):
        u, v, w = h @ (x + 8, y - 5, 1)
        assert (u / w, v / w) == pytest.approx((x, y), abs=2)
    report = json.loads((drive / "out/report.json").read_text())
    assert report["confidence"] > 0.5 and set(report["pairs"]) == {"0", "1"} == set(report["used"])
    assert np.reshape(report["pairs"]["0"]["homography"], (3, 3)).shape == (3, 3)
    assert cv2.imread(str(drive / "out/overlay.png")).std() > 10


@pytest.mark.slow
def test_scenes_that_show_nothing_are_said_not_to_be_trusted(drive, capsys):
    for path in (drive / "thermal").iterdir():
        cv2.imwrite(str(path), np.random.default_rng(0).integers(90, 110, (480, 640), np.uint8))
    assert calibrate(drive, "--from-scenes") == 1
    assert "Not to be trusted" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--square-m is missing: measure"),
        (["--from-scenes", "--bag", "x"], "--from-scenes reads folders"),
        (["--square-m", "0.05"], "board"),
    ],
)
def test_what_calibrating_needs_is_named(drive, capsys, arguments, told):
    assert calibrate(drive, *arguments) == 2
    assert told in capsys.readouterr().err


def test_calibrating_without_pictures_says_what_to_give(capsys):
    assert main(["calibrate", "--square-m", "0.05"]) == 2
    assert "give --rgb and --thermal" in capsys.readouterr().err
