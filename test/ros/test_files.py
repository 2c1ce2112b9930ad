"""Files that parameters name are read and nothing else: the node writes none of its own, wherever it runs."""

import os
import shutil
import subprocess
import sys

import numpy as np
from fusionproxy_ros.msg import FusionStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.trials.harness import node_arguments, stop_process, wait_until
from fusionproxy_ros.trials.night_road import default_calibration

# A node that tells of everything in Python that opens a file for writing or changes a folder.
WATCHED_NODE = """
import os, sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.ch", "os.link", "os.mk", "os.re", "os.rm", "os.symlink", "os.trunc", "os.utime", "shutil.", "tempfile.")

def watch(event, arguments):
    if event.startswith(CHANGES) or (event == "open" and (arguments[2] or 0) & WRITING):
        os.write(2, f"writes: {event} {arguments[0]}\\n".encode())

sys.addaudithook(watch)
if sys.argv[1] == "try":
    open(sys.argv[2], "w")
else:
    from fusionproxy_ros.ros.process import main
    sys.exit(main())
"""
RGB_PX, THERMAL_PX = (64, 48), (40, 32)


def watched(*arguments, **where):
    command = [sys.executable, "-B", "-c", WATCHED_NODE, *arguments]  # -B: no bytecode of what it imports
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **where)


def contents(folder):
    return {str(path): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_node_that_lives_through_all_of_its_states_writes_no_file(graph, tmp_path):
    given, log = tmp_path / "given", tmp_path / "log"  # ROS writes its log
    for folder in (given, log, tmp_path / "home"):
        folder.mkdir()
    shutil.copy(DEFAULT_STUDENT, given / "student.safetensors")
    save_calibration(default_calibration(RGB_PX, THERMAL_PX), given / "rig.yaml")
    before = contents(given) | contents(tmp_path / "home")
    parameters = {
        "student.path": str(given / "student.safetensors"),
        "registration.mode": "extrinsic",
        "registration.calibration_file": str(given / "rig.yaml"),
        "debug_images": True,
    }
    environment = os.environ | {"HOME": str(tmp_path / "home"), "ROS_LOG_DIR": str(log)}
    process = watched(*node_arguments(parameters), cwd=tmp_path / "home", env=environment)
    graph.processes.append(process)
    down, cameras = graph.downstream(), graph.cameras()
    thermal = np.arange(THERMAL_PX[0] * THERMAL_PX[1], dtype=np.uint16).reshape(THERMAL_PX[::-1])

    def fused(first):
        for number in range(first, first + 300):
            cameras.publish("thermal", number * 10**8, thermal + number)
            cameras.publish("rgb", number * 10**8, np.zeros((*RGB_PX[::-1], 3), np.uint8))
            wait_until(lambda number=number: len(down.statuses) >= number, 60, "an answer")
            if down.statuses[-1].mode == FusionStatus.FUSED:
                return number
        raise AssertionError(down.statuses[-1].reason)

    count = fused(1)
    assert graph.set_parameter("max_hold_s", 0.125).successful
    for transition in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        request = ChangeState.Request(
            transition=Transition(id=getattr(Transition, f"TRANSITION_{transition}"))
        )
        assert graph.call("fusion/change_state", request).success
    wait_until(cameras.connected, 30, "the node to listen again")
    fused(count + 1)
    assert stop_process(process, 60) == 0
    assert "writes:" not in process.stderr.read()
    assert contents(given) | contents(tmp_path / "home") == before


def test_a_write_would_be_seen(tmp_path):
    _, told = watched("try", str(tmp_path / "written")).communicate(timeout=60)
    assert told == f"writes: open {tmp_path / 'written'}\n"
