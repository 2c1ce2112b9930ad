"""How the node's process starts."""

import ctypes
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.trials.harness import node_arguments, wait_until

# The launcher, which then says what glibc tells of its heaps.
HEAPS_AT_THE_END = """
import ctypes, os, runpy, sys

leave = os._exit

def tell(code):
    libc = ctypes.CDLL(None)
    libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
    libc.fflush(None)
    leave(code)

os._exit = tell
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

AT_IMPORT_OF_TORCH = """
import os, signal, sys

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            import rclpy
            participants = rclpy.create_node("look").get_fully_qualified_node_names()
            print([one for one in participants if one.startswith("/_fusion")])
            sys.stdout.flush()
            os.kill(os.getpid(), NUMBER)

sys.meta_path.insert(0, Torch())
from fusionproxy_ros.fusion import cpu
from fusionproxy_ros.ros.process import main
cpu.FOLDERS = []  # torch takes the place of the compiled code
sys.exit(main())
"""


@pytest.mark.parametrize("number", ["signal.SIGINT", "signal.SIGTERM"])
def test_discovery_runs_while_torch_is_imported_and_a_signal_then_ends_it_cleanly(number):
    code = AT_IMPORT_OF_TORCH.replace("NUMBER", number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("['/_fusion_") and not done.stderr
    assert done.returncode == 0


def test_the_node_that_joined_ahead_is_gone_when_the_node_runs(graph):
    graph.fusion()
    graph.downstream()
    graph.cameras()
    names = graph.node.get_node_names
    wait_until(lambda: [name for name in names() if "fusion" in name] == ["fusion"], 30, "one node")


def test_without_safetensors_the_node_says_what_to_install():
    code = "import sys; sys.modules['safetensors'] = None; "
    code += "from fusionproxy_ros.ros.process import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.rstrip().endswith(": pip install safetensors")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc's")
def test_what_one_thread_frees_another_can_have_since_all_share_one_heap(graph):
    launcher = Path(get_package_prefix("fusionproxy_ros"), "lib", "fusionproxy_ros", "fusion_node")
    command = [sys.executable, "-c", HEAPS_AT_THE_END, str(launcher), *node_arguments({})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    graph.processes.append(process)
    down, cameras = graph.downstream(), graph.cameras()
    thermal = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    for i in range(1, 200):  # all of its threads have worked then
        cameras.publish("thermal", i * 10**8, thermal + i)
        cameras.publish("rgb", i * 10**8, np.zeros((48, 64, 3), np.uint8))
        time.sleep(0.1)
        if any(status.mode == FusionStatus.FUSED for status in down.statuses):
            break
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.findall('<heap nr="(\\d+)"', told) == ["0"]
