"""`fusionproxy demo` runs the live node and leaves a report and pictures that tell the truth."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from domains import own_domain

from fusionproxy_ros.core.image_files import InputError
from fusionproxy_ros.trials.demo import load_footage
from fusionproxy_ros.trials.harness import TrialError

SECONDS, FRAMES = "9.2", 276  # a shorter demo has no outage
KEYS = {
    "rgb_frames", "answered_once", "header_mismatches", "out_of_order", "modes", "recovery_frames", "latency_ms", "rmw",
    "thermal_visible",
}  # fmt: skip


def test_the_demo_answers_every_frame_shows_hidden_people_and_leaves_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", own_domain())
    command = [
        sys.executable,
        "-m",
        "fusionproxy_ros.cli",
        "demo",
        "--seconds",
        SECONDS,
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() >= KEYS, done.stderr
    assert report["rgb_frames"] == FRAMES == sum(report["modes"].values()) + report["dropped"]
    assert (
        report["answered_once"] == FRAMES - report["dropped"]
    )  # a loaded machine may skip; then the exit code says so
    assert done.returncode == (0 if report["dropped"] == 0 else 1), done.stderr
    assert report["header_mismatches"] == report["out_of_order"] == 0
    assert (
        report["modes"]["HELD"] > 0 and report["modes"]["PASSTHROUGH"] > 0 and report["recovery_frames"] <= 3
    )
    assert report["thermal_visible"] > 0.5
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == round(3 * 640 * 0.6)
    assert (
        cv2.VideoCapture(str(tmp_path / "fused.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == report["answered_once"]
    )
    assert "hidden people shown" in done.stdout


def write_pairs(folder, count, size=(40, 32)):
    for name in ("rgb", "thermal"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"rgb/{i}.png"), np.full((*size, 3), i, np.uint8))
        cv2.imwrite(str(folder / f"thermal/{i}.png"), np.full(size, 100 * i, np.uint16))


def test_a_folder_is_played_there_and_back_until_the_time_is_full(tmp_path):
    write_pairs(tmp_path, 4)
    footage = load_footage(str(tmp_path), seconds=0.3)
    assert [rgb[0, 0, 0] for _, rgb in footage.rgb] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [thermal[0, 0] for _, thermal in footage.thermal] == [0, 100, 200, 300, 200, 100, 0, 100, 200]


@pytest.mark.parametrize("suffix", ["", "_*", "_rgb.avi", "_thermal.avi"])
def test_a_video_pair_is_found_by_prefix_glob_or_either_file(tmp_path, suffix):
    for name in ("rgb", "thermal"):
        writer = cv2.VideoWriter(
            str(tmp_path / f"drive_{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48)
        )
        for i in range(5):
            writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
        writer.release()
    footage = load_footage(str(tmp_path / "drive") + suffix, seconds=0.2)
    assert len(footage.rgb) == 5 and footage.rgb[1][0] == 0.04
    assert footage.thermal[4][1].shape == (48, 64) and footage.thermal[4][1].mean() == pytest.approx(
        160, abs=3
    )


def test_footage_that_does_not_pair_up_is_refused_with_the_reason(tmp_path):
    with pytest.raises(TrialError, match="give scene, a video pair"):
        load_footage(str(tmp_path / "nothing"), 1)
    write_pairs(tmp_path, 2)
    (tmp_path / "thermal/1.png").rename(tmp_path / "thermal/2.png")
    with pytest.raises(TrialError, match="same names"):
        load_footage(str(tmp_path), 1)
    (tmp_path / "thermal/2.png").rename(tmp_path / "thermal/1.png")
    (tmp_path / "rgb/1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"rgb/1.png: not a readable image"):
        load_footage(str(tmp_path), 1)
    write_pairs(tmp_path, 1, size=(48, 64))
    cv2.imwrite(str(tmp_path / "rgb/1.png"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(TrialError, match="fuse-pairs"):
        load_footage(str(tmp_path), 1)
