"""A graph of its own for every test: loopback only, a random ROS_DOMAIN_ID, real processes."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

try:
    import rclpy
    from domains import own_domain
    from forked import ForkedNode
    from lifecycle_msgs.srv import ChangeState, GetState
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import SetParameters

    from fusionproxy_ros.ros.spinner import Spinner
    from fusionproxy_ros.trials.harness import (
        CameraDrivers,
        Downstream,
        TrialError,
        prepare_environment,
        start_node,
        stop_process,
        wait_until,
    )

    prepare_environment()
    MISSING = None
except ImportError as error:
    MISSING = f"ROS 2 is not here ({error}): run `make test` or source a ROS installation"

SERVICES = {  # that tests call; one wait for the discovery of all is enough
    "fusion/set_parameters": SetParameters,
    "fusion/change_state": ChangeState,
    "fusion/get_state": GetState,
}
PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


class SkippedModule(pytest.Module):
    """A test module that cannot even be imported, because ROS is missing."""

    def collect(self):
        pytest.skip(MISSING, allow_module_level=True)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("ros")


def pytest_pycollect_makemodule(module_path, parent):
    return SkippedModule.from_parent(parent, path=module_path) if MISSING else None


class Graph:
    """This test's node and processes."""

    def __init__(self):
        self.node = rclpy.create_node("test")
        self.processes = []
        self.clients = {}

    def fusion(self, parameters=None, remappings=None, params_file=None, installed=False):
        """Start the fusion node; `installed`: as `ros2 run` would, from nothing, which takes longer."""
        start = start_node if installed else ForkedNode
        self.processes.append(start(parameters or {}, remappings, params_file))
        return self.processes[-1]

    def camera(self, *arguments, default_segment=False):
        """Start test/ros/camera_process.py; with `default_segment` without the shipped Fast DDS profile."""
        env = {key: value for key, value in os.environ.items() if not (default_segment and key in PROFILES)}
        command = [sys.executable, str(Path(__file__).parent / "camera_process.py"), *arguments]
        self.processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return self.processes[-1]

    def cameras(self, *args, **kwargs):
        """Publish from this process, once the fusion node listens."""
        cameras = CameraDrivers(self.node, *args, **kwargs)
        wait_until(cameras.connected, 30, "fusion node subscribing")
        return cameras

    def downstream(self, *args, **kwargs):
        return Downstream(self.node, *args, **kwargs)

    def call(self, name, request):
        """Call one of SERVICES. An answer sent before the node has discovered this client is lost: ask again."""
        if not self.clients:
            self.clients = {name: self.node.create_client(kind, name) for name, kind in SERVICES.items()}
            assert all(client.wait_for_service(30) for client in self.clients.values())
            time.sleep(0.5)
        client = self.clients[name]
        for _ in range(4):
            future = client.call_async(request)
            with suppress(TrialError):
                wait_until(future.done, 5, name)
                return future.result()
        raise AssertionError(f"{name} does not answer")

    def set_parameter(self, name, value):
        """Result of setting one parameter of the fusion node."""
        kind = {float: ParameterType.PARAMETER_DOUBLE, str: ParameterType.PARAMETER_STRING}[type(value)]
        field = {float: "double_value", str: "string_value"}[type(value)]
        request = SetParameters.Request(
            parameters=[Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))]
        )
        return self.call("fusion/set_parameters", request).results[0]


@pytest.fixture
def graph(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", own_domain())
    rclpy.init()
    graph = Graph()
    with Spinner(graph.node):
        yield graph
        for process in graph.processes:
            stop_process(process)
    graph.node.destroy_node()
    rclpy.try_shutdown()
