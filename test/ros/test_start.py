"""How the node's process starts."""

import subprocess
import sys

import pytest

from fusionproxy_ros.demo import wait_until

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
from fusionproxy_ros import native
from fusionproxy_ros.start import main
native.FOLDERS = []  # torch takes the place of the compiled code
sys.exit(main())
"""


@pytest.mark.parametrize("number", ["signal.SIGINT", "signal.SIGTERM"])
def test_discovery_runs_while_torch_is_imported_and_a_signal_then_ends_it_cleanly(number):
    code = AT_IMPORT_OF_TORCH.replace("NUMBER", number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("['/_fusion_") and not done.stderr
    assert done.returncode == 0


def test_the_node_that_joined_ahead_is_gone_when_the_node_runs(graph):
    graph.fusion()
    graph.downstream()
    graph.cameras()
    names = graph.node.get_node_names
    wait_until(lambda: [name for name in names() if "fusion" in name] == ["fusion"], 10, "one node")
