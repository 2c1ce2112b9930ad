"""Who crashes leaves ports in shared memory, and who tidies up may take too many: neither silences the node."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from fusionproxy_ros.msg import FusionStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter_client import AsyncParameterClient

from fusionproxy_ros.ros.dds import PARTICIPANTS, DeafError, check_ports
from fusionproxy_ros.trials.harness import wait_until


def ports_of(process):
    """The files of the ports on which it listens: it holds their locks."""
    files = []
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            files.append(os.path.realpath(fd))
    return [Path(lock[1]) for file in files if (lock := re.fullmatch(r"(.*/fast\w+_port\d+)_el", file))]


def test_the_node_listens_where_the_next_free_port_is_not(graph):
    fusion = graph.fusion()
    wait_until(lambda: graph.node.count_publishers("fused/image") == 1, 30, "the node's outputs")
    # The lower port is of a flow of its own that ROS asks for, and not of the participant's number.
    port = max(int(re.sub(r".*_port", "", port.name)) for port in ports_of(fusion))
    assert (port - 7411 - 250 * int(os.environ["ROS_DOMAIN_ID"])) / 2 in PARTICIPANTS


def is_deaf(process):
    try:
        check_ports(Path(f"/proc/{process.pid}"))
    except DeafError:
        return True
    return False


def test_a_node_whose_ports_are_taken_away_comes_back_as_it_was(graph):
    down = graph.downstream(keep_pixels=False)
    fusion = graph.fusion({"autostart": False})
    for transition in Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert graph.call("fusion/change_state", request).success
    assert graph.set_parameter("max_hold_s", 0.125).successful
    assert not is_deaf(fusion)

    before = ports_of(fusion)
    for port in before:
        port.unlink()  # who has not met the node before makes itself a port of that name, and talks to nobody there
    assert is_deaf(fusion)
    graph.camera()

    wait_until(lambda: any(s.mode == FusionStatus.FUSED for s in down.statuses), 30, "first fused frame")
    wait_until(lambda: not is_deaf(fusion), 10, "its ports")
    assert len(ports_of(fusion)) == len(before)  # of one participant: the one before is gone
    assert graph.call("fusion/get_state", GetState.Request()).current_state.label == "active"
    client = AsyncParameterClient(graph.node, "fusion")
    assert client.wait_for_services(10)
    future = client.get_parameters(["max_hold_s"])
    wait_until(future.done, 10, "the answer to get_parameters")
    assert future.result().values[0].double_value == 0.125


def test_a_node_that_comes_back_twice_leaves_no_participant_behind(graph):
    """What is left behind has lost its ports for good, and would have the node leave again, for ever."""
    fusion = graph.fusion()
    graph.downstream(keep_pixels=False)
    wait_until(lambda: graph.node.count_publishers("fused/image") == 1, 30, "the node's outputs")
    graph.camera()
    before = ports_of(fusion)
    for _ in range(2):
        for port in ports_of(fusion):
            port.unlink(missing_ok=True)
        wait_until(lambda: not is_deaf(fusion), 20, "its ports")
        time.sleep(0.9)  # so that it has begun to work
    # A peer may take a port away once more; what is left behind would have the node leave every second or so.
    calm_since_s = time.monotonic()

    def is_calm():
        nonlocal calm_since_s
        if len(ports_of(fusion)) != len(before) or is_deaf(fusion):
            calm_since_s = time.monotonic()
        return time.monotonic() - calm_since_s > 4

    wait_until(is_calm, 60, "one participant that stays")


def test_a_node_whose_graph_is_shut_down_does_not_come_back(graph):
    # By the callback that looks after the ports, so that the executor finds it done and returns.
    program = (
        "import rclpy; from fusionproxy_ros.ros import dds, process; dds.check_ports = rclpy.try_shutdown; "
    )
    process = subprocess.Popen([sys.executable, "-c", program + "raise SystemExit(process.main())"])
    graph.processes.append(process)
    assert process.wait(20) == 0
