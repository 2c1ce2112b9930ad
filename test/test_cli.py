"""`fusionproxy fuse-pairs`: folders in, fused PNGs out, and a bad file neither stops the rest nor goes unnamed."""

import json

import cv2
import numpy as np
import pytest
from geometry import street

from fusionproxy_ros.calibration import load_homography, save_calibration
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.cli import main
from fusionproxy_ros.frames import Frame, Mode, Pair
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.normalisation import NormalisationConfig
from fusionproxy_ros.registration import extrinsic, homography
from fusionproxy_ros.scene import NightRoad, default_calibration


@pytest.fixture(scope="module")
def scene():
    return NightRoad(default_calibration())


@pytest.fixture
def folders(tmp_path, scene):
    for name in ("rgb", "thermal"):
        (tmp_path / name).mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"rgb/{i}.png"), scene.rgb(i)[..., ::-1])
        cv2.imwrite(str(tmp_path / f"thermal/{i}.png"), scene.thermal(i))
    return tmp_path


def fuse(folders, *more):
    arguments = ["fuse-pairs", "--rgb", "rgb", "--thermal", "thermal", "--out", "out"]
    return main(
        [str(folders / a) if a in ("rgb", "thermal", "out") else a for a in arguments]
        + [str(m) for m in more]
    )


def expected(scene, t_s, registration):
    rgb = Frame(0, "", np.ascontiguousarray(scene.rgb(t_s)[..., ::-1]), "bgr8")
    pair = Pair(rgb, Frame(0, "", scene.thermal(t_s), "mono16"), Mode.FUSED)
    return Fuser(read_weights(DEFAULT_STUDENT), NormalisationConfig()).fuse(pair, registration).pixels


def test_a_calibration_file_gives_the_core_s_own_pixels(folders, scene):
    save_calibration(default_calibration(), folders / "calibration.yaml")
    assert fuse(folders, "--calibration", folders / "calibration.yaml") == 0
    for i in range(3):
        np.testing.assert_array_equal(
            cv2.imread(str(folders / f"out/{i}.png")),
            expected(scene, i, extrinsic(default_calibration(), 20.0)),
        )


def test_a_homography_file_gives_the_core_s_own_pixels(folders, scene):
    h = np.array([[2.0, 0, 3], [0, 1.9, -2], [0, 0, 1]])
    np.savetxt(folders / "h.txt", h)
    assert fuse(folders, "--homography", folders / "h.txt") == 0
    np.testing.assert_array_equal(cv2.imread(str(folders / "out/1.png")), expected(scene, 1, homography(h)))


def test_bad_files_are_named_everything_else_is_done_and_the_exit_code_is_not_zero(folders, capsys):
    (folders / "rgb/1.png").write_bytes(b"not an image")
    cv2.imwrite(
        str(folders / "thermal/2.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    )
    cv2.imwrite(str(folders / "rgb/3.png"), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(folders / "thermal/4.png"), np.zeros((64, 64), np.uint8))
    assert fuse(folders) == 1
    assert [path.name for path in (folders / "out").iterdir()] == ["0.png"]
    output = capsys.readouterr()
    for name, told in (
        ("rgb/1.png", "not a readable image"), ("thermal/2.png", "palette"),
        ("rgb/3.png", "no thermal image of that name"), ("thermal/4.png", "no RGB image of that name"),
    ):  # fmt: skip
        assert any(f"{folders / name}: " in line and told in line for line in output.err.splitlines()), name
    assert "fused 1 of 4 pairs" in output.out


def test_an_empty_or_missing_folder_is_named(folders, capsys):
    (folders / "empty").mkdir()
    for folder, told in (("empty", "no images in it"), ("missing", "no such folder")):
        assert (
            main(
                [
                    "fuse-pairs",
                    "--rgb",
                    str(folders / folder),
                    "--thermal",
                    str(folders / "thermal"),
                    "--out",
                    "x",
                ]
            )
            == 2
        )
        assert f"{folders / folder}: {told}" in capsys.readouterr().err


def test_a_broken_calibration_file_is_named(folders, capsys):
    (folders / "bad.yaml").write_text("rgb: {}\n")
    assert fuse(folders, "--calibration", folders / "bad.yaml") == 2
    assert "bad.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["demo", "--seconds", "0"], ["demo", "--thermal-hz", "-9"]])
def test_impossible_numbers_are_refused_before_anything_runs(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "is not a positive number" in capsys.readouterr().err


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


def test_scenes_that_show_nothing_are_said_not_to_be_trusted(drive, capsys):
    for path in (drive / "thermal").iterdir():
        cv2.imwrite(str(path), np.random.default_rng(0).integers(90, 110, (480, 640), np.uint8))
    assert calibrate(drive, "--from-scenes") == 1
    assert "Not to be trusted" in capsys.readouterr().out


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
