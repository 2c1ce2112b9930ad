"""Lifecycle and parameters behave as a lifecycle manager and `ros2 param set` expect."""

import signal
import time

import numpy as np
import pytest
from fusionproxy_ros.msg import FusionStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

from fusionproxy_ros.trials.harness import wait_until


def change(graph, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return graph.call("fusion/change_state", request).success


def state(graph):
    return graph.call("fusion/get_state", GetState.Request()).current_state.label


def test_transitions_are_obeyed_and_an_inactive_node_listens_to_nothing(graph):
    graph.fusion({"autostart": False})
    assert state(graph) == "unconfigured"
    assert change(graph, Transition.TRANSITION_CONFIGURE) and state(graph) == "inactive"
    assert graph.node.count_subscribers("rgb/image_raw") == 0
    for _ in range(2):
        assert change(graph, Transition.TRANSITION_ACTIVATE) and state(graph) == "active"
        down, cameras = graph.downstream(), graph.cameras()
        cameras.publish("rgb", 10**9, np.zeros((64, 64, 3), np.uint8))
        wait_until(lambda down=down: down.images, 10, "answer")
        assert change(graph, Transition.TRANSITION_DEACTIVATE) and state(graph) == "inactive"
    assert change(graph, Transition.TRANSITION_CLEANUP) and state(graph) == "unconfigured"
    assert change(graph, Transition.TRANSITION_CONFIGURE) and state(graph) == "inactive"


TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
ALLOWED = {"unconfigured": {"configure"}, "inactive": {"activate", "cleanup"}, "active": {"deactivate"}}


def test_every_transition_from_every_state_twice_is_obeyed_or_refused_and_never_kills(graph):
    process = graph.fusion({"autostart": False})
    graph.downstream()
    for way_in in ((), ("configure",), ("configure", "activate")):
        for name, transition in TRANSITIONS.items():
            for step in way_in:
                assert change(graph, TRANSITIONS[step]), step
            before = state(graph)
            first = change(graph, transition)
            assert first == (name in ALLOWED[before]), (before, name)
            assert not first or not change(graph, transition), (before, name)  # twice in a row
            for step in ("deactivate", "cleanup"):
                change(graph, TRANSITIONS[step])
            assert state(graph) == "unconfigured"
    assert process.poll() is None
    assert change(graph, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(graph) == "finalized" and process.poll() is None


def test_after_a_failed_configure_the_cause_can_be_removed(graph, tmp_path):
    graph.fusion({"autostart": False, "student.path": str(tmp_path / "nowhere.safetensors")})
    assert not change(graph, Transition.TRANSITION_CONFIGURE) and state(graph) == "unconfigured"
    assert graph.set_parameter("student.path", "").successful
    assert change(graph, Transition.TRANSITION_CONFIGURE) and change(graph, Transition.TRANSITION_ACTIVATE)


def test_a_node_that_cannot_configure_stays_unconfigured_and_alive(graph):
    process = graph.fusion({"student.path": "nowhere.safetensors"})
    assert state(graph) == "unconfigured"
    assert process.poll() is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("deadline_s: -1.0", "parameter deadline_s"),
        ("deadline_s: soon", "parameter deadline_s"),
        ("deadline_s: 1", "write 0.04, not 0"),
        ("plane_depth_m: 5.0", "plane_depth_m is unknown: did you mean registration.plane_depth_m?"),
        ("dead_line_s: 0.1", "dead_line_s is unknown: did you mean deadline_s?"),
    ],
)
def test_a_yaml_with_an_unknown_or_impossible_parameter_fails_at_configure_with_the_name(
    graph, capfd, tmp_path, given, told
):
    (tmp_path / "params.yaml").write_text(f"/**:\n  ros__parameters:\n    max_hold_s: 0.3\n    {given}\n")
    process = graph.fusion(params_file=tmp_path / "params.yaml")
    assert state(graph) == "unconfigured" and process.poll() is None
    error = capfd.readouterr().err
    assert "cannot configure" in error and told in error and "Traceback" not in error


def test_a_wrong_start_value_can_be_set_right_without_a_restart(graph):
    graph.fusion({"autostart": False, "deadline_s": -1.0})
    assert not change(graph, Transition.TRANSITION_CONFIGURE)
    assert graph.set_parameter("deadline_s", 0.03).successful
    assert change(graph, Transition.TRANSITION_CONFIGURE)


def test_a_live_parameter_takes_effect_and_an_impossible_value_is_refused_with_the_reason(graph):
    graph.fusion()
    down, cameras = graph.downstream(), graph.cameras()
    picture = np.zeros((64, 64, 3), np.uint8)
    assert graph.set_parameter("thermal_time_offset_s", 100.0).successful
    cameras.publish("thermal", 101 * 10**9, picture[..., 0])
    cameras.publish("rgb", 10**9, picture)
    wait_until(lambda: down.statuses, 10, "answer")
    assert down.statuses[0].mode == FusionStatus.FUSED and down.statuses[0].skew_s == 0
    refused = graph.set_parameter("registration.mode", "magic")
    assert not refused.successful and "choose one of identity, homography, extrinsic" in refused.reason
    assert not graph.set_parameter("deadline_s", -1.0).successful
    late = graph.set_parameter("normalisation.mode", "fixed")
    assert not late.successful and "normalisation.mode is read at configure" in late.reason


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_cleanly(graph, number):
    process, _ = graph.fusion(installed=True), graph.downstream()
    graph.cameras()
    process.send_signal(number)
    assert process.wait(1) == 0


@pytest.mark.parametrize("delay_s", [0.3, 0.8, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3])
def test_a_signal_at_any_moment_of_the_start_leaves_no_traceback(graph, capfd, delay_s):
    process = graph.fusion(installed=True)
    time.sleep(delay_s)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) in (0, -signal.SIGTERM)  # before rclpy installs its handler the default one acts
    assert "Traceback" not in capfd.readouterr().err
