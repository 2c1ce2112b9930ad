"""How the node's process starts."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fusionproxy_ros.demo import wait_until

HEAP = 64 << 20  # bytes, glibc's HEAP_MAX_SIZE

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


def test_without_safetensors_the_node_says_what_to_install():
    code = "import sys; sys.modules['safetensors'] = None; from fusionproxy_ros.start import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.rstrip().endswith(": pip install safetensors")


def heaps(pid):
    """How many glibc has begun beside its first: each reserves 64 MiB, and what it does not use yet is locked."""
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    spans = [([int(end, 16) for end in part[0].split("-")], part[1]) for part in maps]
    return sum(
        begin % HEAP == 0 and access == "rw-p" and locked == "---p" and (end, stop - begin) == (resumed, HEAP)
        for ((begin, end), access), ((resumed, stop), locked) in pairwise(spans)
    )


def test_what_one_thread_frees_another_can_have_since_all_share_one_heap(graph):
    fusion = graph.fusion(installed=True)
    graph.downstream()
    graph.cameras()  # waits until the node listens, when all of its threads are there
    assert heaps(fusion.pid) == 0
