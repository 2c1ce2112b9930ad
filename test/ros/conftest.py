"""A graph of its own for every test: loopback only, a random ROS_DOMAIN_ID, real processes."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "rclpy", reason="ROS 2 (rclpy) is not installed: run `make test` or source a ROS installation"
)

import rclpy

from fusionproxy_ros.demo import (
    Cameras,
    Downstream,
    Spinner,
    prepare_environment,
    start_node,
    stop_process,
    wait_until,
)

prepare_environment()
PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"


class Graph:
    """This test's node and processes."""

    def __init__(self):
        self.node = rclpy.create_node("test")
        self.processes = []

    def fusion(self, parameters=None, remappings=None):
        """Start the installed fusion node."""
        self.processes.append(start_node(parameters or {}, remappings))
        return self.processes[-1]

    def camera(self, *arguments, default_segment=False):
        """Start test/ros/camera_process.py; with `default_segment` without the shipped Fast DDS profile."""
        env = {key: value for key, value in os.environ.items() if not (default_segment and key == PROFILE)}
        command = [sys.executable, str(Path(__file__).parent / "camera_process.py"), *arguments]
        self.processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return self.processes[-1]

    def cameras(self, *args, **kwargs):
        """Publish from this process, once the fusion node listens."""
        cameras = Cameras(self.node, *args, **kwargs)
        wait_until(cameras.connected, 30, "fusion node subscribing")
        return cameras

    def downstream(self, *args, **kwargs):
        return Downstream(self.node, *args, **kwargs)


@pytest.fixture
def graph(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    rclpy.init()
    graph = Graph()
    with Spinner(graph.node):
        yield graph
        for process in graph.processes:
            stop_process(process)
    graph.node.destroy_node()
    rclpy.try_shutdown()
