"""The fusion node as a process of its own that need not import rclpy and OpenCV again: a fork of one that has.

Half of a test's time would go into these imports. What starts as `ros2 run` starts it is in test_lifecycle.py,
test_restart.py, test_demo.py and test_faults.py.
"""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.ros.process import GOMP_SPINCOUNT, main
from fusionproxy_ros.trials.harness import node_arguments

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # before OpenMP is loaded
# It only imports: it has neither threads nor locks of the middleware.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "fusionproxy_ros.ros.node"])


def _run(arguments, environment, outputs):
    """scripts/fusion_node, without the imports."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    keep_freed_memory()
    sys.argv = ["fusion_node", *arguments]
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkedNode:
    """What the tests use of subprocess.Popen."""

    def __init__(self, parameters, remappings=None, params_file=None):
        arguments = node_arguments(parameters, remappings, params_file)
        outputs = [
            Connection(os.dup(number), readable=False) for number in (1, 2)
        ]  # as a Popen would inherit
        self._process = SERVER.Process(target=_run, args=(arguments, dict(os.environ), outputs), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("fusion_node", timeout)
        return self.poll()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()
