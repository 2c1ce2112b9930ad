"""`fusionproxy fuse-pairs`: folders in, fused PNGs out, and a bad file neither stops the rest nor goes unnamed."""

import cv2
import numpy as np
import pytest

from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.geometry.registration import extrinsic, homography
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration


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
    return Fuser(read_weights(DEFAULT_STUDENT), GainSettings()).fuse(pair, registration).pixels


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
        ("rgb/3.png", "no picture of that name"), ("thermal/4.png", "no picture of that name"),
    ):  # fmt: skip
        assert any(f"{folders / name}: " in line and told in line for line in output.err.splitlines()), name
    assert "fused 1 of 3 pairs" in output.out


def test_a_pair_that_thermal_does_not_reach_passes_rgb_says_why_and_is_no_success(folders, capsys):
    """As with a translation in millimetres, or a homography of another size."""
    np.savetxt(folders / "h.txt", [[1.0, 0, 1e4], [0, 1, 0], [0, 0, 1]])
    assert fuse(folders, "--homography", folders / "h.txt") == 1
    told = capsys.readouterr()
    assert "1: PASSTHROUGH: the thermal camera sees nothing of the RGB picture: calibrate" in told.err
    assert "fused 0 of " in told.out
    np.testing.assert_array_equal(*(cv2.imread(str(folders / folder / "1.png")) for folder in ("out", "rgb")))


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
