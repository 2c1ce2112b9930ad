"""Every sub-command where torch or ROS is missing: it works without, or says in one line what is missing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from camera_models import street
from domains import own_domain

import fusionproxy_ros
from fusionproxy_ros.cli.__main__ import ROS, main, parser

(SUBPARSERS,) = (action for action in parser()._actions if isinstance(action.choices, dict))
COMMANDS = list(SUBPARSERS.choices)
NEEDS = {"torch": {"evaluate"}, "rclpy": {"demo", "soak", "replay"}}
BLOCKED = {"torch": {"torch"}, "rclpy": ROS}
CURES = {"torch": "pip install torch", "rclpy": "run make install or colcon build"}

# Python imports this file in every process that it starts, the node's and the soak's cameras among them.
BLOCKER = "import os, sys\nsys.modules.update(dict.fromkeys(os.environ['BLOCKED'].split()))\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of tiny inputs: rgb/ and thermal/, recording/ made of them, fused/ made of that."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("rgb", "thermal"):
        (folder / name).mkdir()
    for index in range(2):
        for name, picture in zip(("rgb", "thermal"), street((640, 480), (8, -5)), strict=True):
            cv2.imwrite(str(folder / f"{name}/{index}.png"), np.flip(picture, axis=1) if index else picture)
    pictures = ["--rgb", f"{folder}/rgb", "--thermal", f"{folder}/thermal"]
    assert main(["make-bag", *pictures, "--out", f"{folder}/recording"]) == 0
    assert main(["fuse-bag", f"{folder}/recording", "--out", f"{folder}/fused"]) == 0
    return folder


@pytest.fixture
def work(command, inputs, pair_folder, tmp_path):
    """What each sub-command is given, and the file that shows that it did its work."""
    out, pictures = tmp_path / "out", ["--rgb", inputs / "rgb", "--thermal", inputs / "thermal"]
    given, made = {
        "demo": (["--seconds", "1", "--out", out], out / "report.json"),
        "fuse-pairs": ([*pictures, "--out", out], out / "1.png"),
        "fuse-bag": ([inputs / "recording", "--out", out], out / "metadata.yaml"),
        "make-bag": ([*pictures, "--out", out], out / "metadata.yaml"),
        "replay": ([inputs / "recording", "--wait-s", "0"], None),
        "report": ([inputs / "fused", "--out", out / "report.html"], out / "report.html"),
        "calibrate": (["--from-scenes", *pictures, "--out", out], out / "homography.yaml"),
        # It answers from its first slot on; the whole of it takes five minutes at least.
        "soak": (["--minutes", "1", "--out", out], out / "kill/downstream.log"),
        "bench": (["--frames", "2", "--pairs", "--out", out], out / "bench.json"),
        "evaluate": (["--data", pair_folder, "--out", out], out / "report.json"),
    }[command]
    return [str(one) for one in given], made


@pytest.fixture
def start(command, missing, work, tmp_path):
    """The sub-command in a process of its own, which cannot import what is missing."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(BLOCKER)
    path = [tmp_path / "path", Path(fusionproxy_ros.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "BLOCKED": " ".join(BLOCKED[missing]),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": own_domain(),
    }
    line = [sys.executable, "-m", "fusionproxy_ros.cli", command, *work[0]]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # In a session of its own, which is ended as a whole: it may have started a node and cameras.
    with subprocess.Popen(
        line, cwd=tmp_path, env=environment, text=True, start_new_session=True, **pipes
    ) as process:
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("missing", NEEDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_without_a_library_or_says_in_one_line_that_it_needs_it(
    command, missing, work, start
):
    works = command not in NEEDS[missing]
    if works and command in NEEDS["rclpy"]:
        pytest.importorskip("rclpy", reason="the command needs ROS")
    made = work[1]
    if works and command == "soak":
        while start.poll() is None and not (made.exists() and made.stat().st_size):
            time.sleep(0.2)
        start.send_signal(signal.SIGINT)
    said, complained = start.communicate(timeout=150)
    assert "Traceback" not in complained, complained
    if works:
        # On a busy machine the demo may miss a frame, and says so.
        expected = {"soak": (130,), "demo": (0, 1)}.get(command, (0,))
        assert start.returncode in expected, complained
        assert made is None or made.stat().st_size, said
    else:
        assert start.returncode == 2, complained
        (line,) = complained.splitlines()
        assert (
            line.startswith(f"fusionproxy: {command} needs ") and missing in line and CURES[missing] in line
        )


def test_without_rosbags_what_to_install_is_said(tmp_path):
    code = (
        "import sys; sys.modules['rosbags'] = None; from fusionproxy_ros.cli.__main__ import main; "
        "sys.exit(main(['make-bag', '--rgb', 'a', '--thermal', 'b', '--out', 'c']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install -U rosbags" in done.stderr
    assert done.stderr.count("\n") == 1
