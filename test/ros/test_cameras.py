"""Several camera pairs in one node: each has its own topics, calibration and parameters; one student serves all."""

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from fusionproxy_ros.msg import FusionStatus

from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.core.image_messages import read_pixels
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, read_weights
from fusionproxy_ros.geometry.registration import homography, identity
from fusionproxy_ros.trials.harness import CameraDrivers, wait_until

SHIFT = [1.0, 0.0, 24.0, 0.0, 1.0, -8.0, 0.0, 0.0, 1.0]
PARAMETERS = {
    "cameras": ["front", "rear"],
    "max_latency_s": 5.0,
    "rear.registration.mode": "homography",
    "rear.registration.homography": SHIFT,
    "rear.max_hold_s": 0.0,
}
REGISTRATION = {"front": identity(), "rear": homography(np.reshape(SHIFT, (3, 3)))}


class Rig:
    """Both pairs' cameras and detectors."""

    def __init__(self, graph, parameters=None):
        self.graph = graph
        graph.fusion(PARAMETERS | (parameters or {}))
        self.down = {
            name: graph.downstream(f"{name}/fused/image", f"{name}/fused/status") for name in REGISTRATION
        }
        self.cameras = {
            name: graph.cameras(names=(f"{name}/rgb", f"{name}/thermal")) for name in REGISTRATION
        }

    def publish(self, name, kind, stamp_ns, pixels):
        self.cameras[name].publish(f"{name}/{kind}", stamp_ns, pixels)

    def answers(self, count):
        wait_until(
            lambda: all(len(d.statuses) >= count and len(d.images) >= count for d in self.down.values()),
            20,
            "answers on the topics of both pairs",
        )


def pictures(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (96, 128, 3), np.uint8), rng.integers(0, 256, (96, 128), np.uint8)


@pytest.mark.parametrize("threads", [1, 2], ids=["side by side on two cores", "one after the other"])
def test_each_pair_is_fused_by_its_own_calibration_on_its_own_topics(graph, threads):
    rig = Rig(graph, {"student.threads": threads})
    for n in range(5):
        for seed, name in enumerate(REGISTRATION):
            rgb, thermal = pictures(2 * n + seed)
            stamp_ns = (n + 1) * 33_000_000 + 1_000_000_000 * seed
            rig.publish(name, "thermal", stamp_ns, thermal)
            rig.publish(name, "rgb", stamp_ns, rgb)
    rig.answers(5)
    student = read_weights(DEFAULT_STUDENT)
    for seed, (name, registration) in enumerate(REGISTRATION.items()):
        fuser = Fuser(student, GainSettings(), "cpu", 2)
        for n in range(5):
            rgb, thermal = pictures(2 * n + seed)
            pair = Pair(Frame(1, "", rgb, "rgb8"), Frame(1, "", thermal, "mono8"), Mode.FUSED)
            msg = rig.down[name].images[n][1]
            np.testing.assert_array_equal(read_pixels(msg), fuser.fuse(pair, registration).pixels)
            assert msg.header.frame_id == f"{name}/rgb_optical_frame"
        assert [s.mode for s in rig.down[name].statuses] == [FusionStatus.FUSED] * 5


def test_where_one_pair_loses_its_thermal_camera_the_other_goes_on_fusing(graph):
    rig = Rig(graph)
    reports = {}
    graph.node.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda array: reports.update({s.name: s.message for s in array.status}),
        10,
    )
    start_ns = time.time_ns()
    for n in range(60):
        for seed, name in enumerate(REGISTRATION):
            rgb, thermal = pictures(2 * n + seed)
            if name == "front" or n < 10:
                rig.publish(name, "thermal", start_ns + n * 33_000_000, thermal)
            rig.publish(name, "rgb", start_ns + n * 33_000_000, rgb)
        time.sleep(0.033)
    rig.answers(60)
    front, rear = ([s.mode for s in rig.down[name].statuses] for name in REGISTRATION)
    assert front == [FusionStatus.FUSED] * 60
    assert rear[:8] == [FusionStatus.FUSED] * 8
    assert rear[12:] == [FusionStatus.PASSTHROUGH] * 48  # max_hold_s is 0 for this pair alone
    wait_until(
        lambda: "not every frame was fused" in reports.get("fusionproxy: rear", ""), 5, "a warning by name"
    )
    assert "not every frame" not in reports["fusionproxy: front"]
    assert {"fusionproxy: /front/rgb/image_raw", "fusionproxy: /rear/thermal/image_raw"} <= reports.keys()


def test_a_pair_that_nobody_listens_to_is_not_subscribed_to(graph):
    graph.fusion(PARAMETERS)
    graph.downstream("front/fused/image", "front/fused/status")
    cameras = CameraDrivers(graph.node, names=("front/rgb", "front/thermal"))
    wait_until(cameras.connected, 30, "the node to listen to the front cameras")
    time.sleep(0.5)
    assert graph.node.count_subscribers("rear/rgb/image_raw") == 0


def test_one_pairs_own_parameter_changes_while_the_node_runs(graph):
    rig = Rig(graph, {"rear.deadline_s": 0.04})
    assert graph.set_parameter("rear.deadline_s", 0.9).successful
    assert graph.set_parameter("deadline_s", 0.0).successful
    refused = graph.set_parameter("rear.registration.mode", "identity")
    assert not refused.successful and "read at configure" in refused.reason
    for name in REGISTRATION:
        rig.publish(name, "rgb", 1_000_000_000, pictures(0)[0])
    sent_ns = time.monotonic_ns()
    rig.answers(1)
    waited_s = {name: (down.images[0][0] - sent_ns) / 1e9 for name, down in rig.down.items()}
    assert waited_s["rear"] > 0.8 > 0.4 > waited_s["front"]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"cameras": ["front", "front"]}, "give each pair another name"),
        ({"cameras": ["front"], "front.deadline": 0.1}, "did you mean front.deadline_s"),
        ({"cameras": ["front"], "rear.deadline_s": 0.1}, "rear.deadline_s is unknown"),
        ({"cameras": ["front"], "front.deadline_s": 7.0}, "front.deadline_s"),
    ],
)
def test_wrong_names_are_refused_at_configure(graph, capfd, parameters, told):
    graph.fusion(parameters)
    text = ""

    def heard():
        nonlocal text
        text += "".join(capfd.readouterr())
        return "cannot configure" in text and told in text

    wait_until(heard, 30, f"a refusal that says {told!r}")
