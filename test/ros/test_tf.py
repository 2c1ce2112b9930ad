"""Extrinsics from TF: what broadcasters of tf2_ros say reaches the fusion node, and what they do not say is named."""

import importlib.util
import sys
import threading
import time

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from fusionproxy_ros.msg import FusionStatus
from geometry_msgs.msg import TransformStamped
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.geometry.camera import rotation_matrix
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.ros.transforms import TransformSource
from fusionproxy_ros.trials.harness import TrialError, wait_until

needs_tf2 = pytest.mark.skipif(
    importlib.util.find_spec("tf2_ros") is None,
    reason="tf2_ros is not here, and in no package registry: apt install ros-$ROS_DISTRO-tf2-ros-py",
)

# The thermal camera 0.1 m to the right of the RGB camera, turned by 90 degrees about the viewing axis so that its
# right is RGB's down: pose of the child in the parent.
QUARTER_TURN = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))


def pose(parent, child, translation_m=(0.0, 0.0, 0.0), quaternion=(0.0, 0.0, 0.0, 1.0), sec=1):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, Time(sec=sec)
    for axis, metres in zip("xyz", translation_m, strict=True):
        setattr(message.transform.translation, axis, metres)
    for axis, value in zip("xyzw", quaternion, strict=True):
        setattr(message.transform.rotation, axis, value)
    return message


@pytest.fixture
def listener(graph):
    """A node of its own, as the fusion node is to its broadcasters, with a TransformSource."""
    node = rclpy.create_node("listener")
    source = TransformSource(node)
    with Spinner(node):
        yield node, source
    source.destroy()
    node.destroy_node()


def looked_up(source, rgb="rgb_optical", thermal="thermal_optical"):
    """(rotation, translation_m), or the text of the error."""
    try:
        return source.lookup(rgb, thermal)
    except RegistrationError as error:
        return str(error)


def wait_for(source, holds, what):
    try:
        wait_until(lambda: holds(looked_up(source)), 15, what)
    except TrialError:
        pytest.fail(f"{what}: {looked_up(source)}")


def arrived(answer):
    return not isinstance(answer, str)


@needs_tf2
def test_static_frames_of_two_broadcasters_connect(graph, listener):
    """The direction, worked out by hand: p_thermal = R p_rgb + t."""
    from tf2_ros import StaticTransformBroadcaster

    _, source = listener
    StaticTransformBroadcaster(graph.node).sendTransform(
        [
            pose("rig", "rgb_optical", (0.0, 0.0, 2.0)),
            pose("rig", "thermal_optical", (0.1, 0.0, 2.0), QUARTER_TURN),
        ]
    )
    wait_for(source, arrived, "static transforms")
    rotation, translation_m = source.lookup("/rgb_optical", "/thermal_optical")
    assert rotation.dtype == translation_m.dtype == np.float64
    # RGB sees it 1 m right, 2 m down, 5 m ahead. Thermal: 2 m right (RGB's down), 0.9 m up (RGB's right, less 0.1).
    np.testing.assert_allclose(rotation @ [1.0, 2.0, 5.0] + translation_m, [2.0, -0.9, 5.0], atol=1e-9)


@needs_tf2
def test_moving_frame_is_followed(graph, listener):
    from tf2_ros import TransformBroadcaster

    _, source = listener
    broadcaster = TransformBroadcaster(graph.node)

    def shows(baseline_m, sec):
        def holds(answer):
            broadcaster.sendTransform(pose("rgb_optical", "thermal_optical", (baseline_m, 0.0, 0.0), sec=sec))
            return arrived(answer) and np.allclose(answer[1], [-baseline_m, 0.0, 0.0])

        return holds

    wait_for(source, shows(0.1, sec=100), "the first pose")
    wait_for(source, shows(0.2, sec=101), "the second pose")


@needs_tf2
def test_looped_bag_is_followed_and_static_frames_stay(graph, listener):
    from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

    node, source = listener
    node.set_parameters([Parameter("use_sim_time", value=True)])
    clock = graph.node.create_publisher(Clock, "/clock", 1)
    broadcaster = TransformBroadcaster(graph.node)
    StaticTransformBroadcaster(graph.node).sendTransform(pose("head", "rgb_optical"))

    def shows(baseline_m, sec):
        def holds(answer):
            clock.publish(Clock(clock=Time(sec=sec)))
            if node.get_clock().now().to_msg().sec == sec:
                broadcaster.sendTransform(pose("head", "thermal_optical", (baseline_m, 0.0, 0.0), sec=sec))
            return arrived(answer) and np.allclose(answer[1], [-baseline_m, 0.0, 0.0])

        return holds

    wait_for(source, shows(0.1, sec=1000), "the first pass")
    wait_for(source, shows(0.2, sec=10), "the second pass")


@needs_tf2
def test_what_tf_does_not_know_is_named(graph, listener):
    from tf2_ros import StaticTransformBroadcaster

    _, source = listener
    nothing = looked_up(source)
    assert "from rgb_optical to thermal_optical (rgb_optical and thermal_optical unknown so far)" in nothing
    assert "start robot_state_publisher" in nothing
    assert "--frame-id rgb_optical --child-frame-id thermal_optical`" in nothing

    StaticTransformBroadcaster(graph.node).sendTransform(pose("rig", "rgb_optical"))
    wait_for(source, lambda answer: "(thermal_optical unknown so far)" in answer, "one of them")
    StaticTransformBroadcaster(graph.node).sendTransform(pose("another rig", "thermal_optical"))
    wait_for(source, lambda answer: "not part of the same tree" in answer, "both, apart")


@needs_tf2
@pytest.mark.parametrize(
    ("frames", "cause"),
    [
        (("", "thermal_optical"), "the RGB images have no frame_id"),
        (("rgb_optical", "/"), "the thermal images have no frame_id"),
        (("camera", "/camera"), "the same frame_id, camera: give each"),
    ],
)
def test_frames_that_name_no_two_cameras_are_refused(listener, frames, cause):
    with pytest.raises(RegistrationError, match=cause):
        listener[1].lookup(*frames)


@needs_tf2
def test_lookup_waits_for_nothing_and_nothing_is_left_behind(graph):
    node = rclpy.create_node("listener")
    before, threads = (list(node.subscriptions), list(node.services)), threading.active_count()
    source = TransformSource(node)
    assert threading.active_count() == threads
    start_s = time.monotonic()
    looked_up(source)
    assert time.monotonic() - start_s < 5  # only a hang takes longer
    source.destroy()
    assert (list(node.subscriptions), list(node.services)) == before
    node.destroy_node()


@needs_tf2
def test_fusion_node_names_the_frames_it_waits_for_and_fuses_when_they_come(graph):
    from tf2_ros import StaticTransformBroadcaster

    graph.fusion({"registration.mode": "extrinsic", "registration.extrinsics_source": "tf"})
    down = graph.downstream(keep_pixels=False)
    graph.camera()

    def last(mode, words):
        return down.statuses and down.statuses[-1].mode == mode and words in down.statuses[-1].reason

    waiting = (
        "from rgb_optical_frame to thermal_optical_frame (rgb_optical_frame and thermal_optical_frame unknown"
    )
    wait_until(lambda: last(FusionStatus.PASSTHROUGH, waiting), 40, "RGB passed on, and why")
    StaticTransformBroadcaster(graph.node).sendTransform(pose("rgb_optical_frame", "thermal_optical_frame"))
    wait_until(lambda: last(FusionStatus.FUSED, ""), 10, "fused by TF")


def test_missing_tf2_ros_says_what_to_install(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)  # as if it were not installed
    source = TransformSource(graph.node)
    with pytest.raises(
        RegistrationError, match=r"apt install ros-\$ROS_DISTRO-tf2-ros-py, or set .*extrinsics_source"
    ):
        source.lookup("rgb_optical", "thermal_optical")
    source.destroy()


@pytest.mark.parametrize("length", [1.0, 1e-3, 20.0])
def test_quaternion_of_any_length_is_a_rotation(length):
    turn = rotation_matrix(*(length * np.array(QUARTER_TURN)))
    np.testing.assert_allclose(turn @ [1.0, 2.0, 3.0], [-2.0, 1.0, 3.0], atol=1e-12)
    half = length * np.array([0.6, 0.0, 0.8, 0.0])  # half a turn about that axis
    np.testing.assert_allclose(rotation_matrix(*half) @ [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(*half) @ [0.6, 0.0, 0.8], [0.6, 0.0, 0.8], atol=1e-12)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (np.nan, 0.0, 0.0, 1.0)])
def test_quaternion_that_is_no_rotation_is_refused(quaternion):
    with pytest.raises(RegistrationError, match="is no rotation: publish"):
        rotation_matrix(*quaternion)
