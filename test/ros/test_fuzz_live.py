"""Thousands of messages that no driver should send, over real DDS: the node answers each RGB one, and lives."""

import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fusionproxy_ros.msg import FusionStatus
from fuzzing import NS_PER_S, RGB_PX, THERMAL_PX, Fuzzer
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from fusionproxy_ros.trials.harness import CameraDrivers, wait_until
from fusionproxy_ros.trials.night_road import default_calibration

IN_FLIGHT = 4  # RGB messages without a status; fewer than the queues hold
SPARE_BYTES = 2 << 30  # of address space that the node may take on after its start
UNSIGNED = {
    "height": 32,
    "width": 32,
    "step": 32,
    "binning_x": 32,
    "binning_y": 32,
    "is_bigendian": 8,
}  # bits


def sendable(fields) -> bool:
    """Whether the fields fit into the message; rclpy writes into memory what does not."""
    sec, _ = divmod(fields["stamp_ns"], NS_PER_S)
    text = "".join(value for value in fields.values() if isinstance(value, str))
    return (
        all(0 <= fields[name] < 2**bits for name, bits in UNSIGNED.items() if name in fields)
        and all(0 <= value < 2**32 for value in fields.get("roi", ()))
        and -(2**31) <= sec < 2**31
        and "\0" not in text
        and "\udcff" not in text
    )


def message(kind, fields):
    """The fields as a message of ROS."""
    sec, nanosec = divmod(fields["stamp_ns"], NS_PER_S)
    msg = kind(header=Header(frame_id=fields["frame_id"]))
    msg.header.stamp.sec, msg.header.stamp.nanosec = sec, nanosec
    for name, value in fields.items():
        if name == "roi":
            names = ("x_offset", "y_offset", "height", "width")
            msg.roi = RegionOfInterest(**dict(zip(names, value, strict=True)))
        elif name not in ("stamp_ns", "frame_id"):
            setattr(msg, name, value)
    return msg


def bounded(process):
    """What it allocates far beyond what the messages hold fails, rather than the machine."""
    used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process.pid, resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))


class Sender:
    """Publishes fuzzed messages no faster than the node answers the RGB ones among them."""

    def __init__(self, node, down, compressed):
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        topics = {
            "rgb": (kind, f"rgb/image_raw{suffix}"),
            "thermal": (kind, f"thermal/image_raw{suffix}"),
            "depth": (Image, "depth/image"),
            "rgb_info": (CameraInfo, "rgb/camera_info"),
            "thermal_info": (CameraInfo, "thermal/camera_info"),
        }
        qos = QoSProfile(depth=100)
        self._kinds = {name: kind for name, (kind, _) in topics.items()}
        self._publishers = {name: node.create_publisher(k, topic, qos) for name, (k, topic) in topics.items()}
        self._down = down
        self.headers = []  # of the RGB messages

    def connected(self):
        return all(publisher.get_subscription_count() for publisher in self._publishers.values())

    def send(self, topic, fields):
        msg = message(self._kinds[topic], fields)
        if topic == "rgb":
            self.headers.append(msg.header)
        self._publishers[topic].publish(msg)
        wait_until(
            lambda: len(self.headers) - len(self._down.statuses) < IN_FLIGHT,
            20,
            f"answer after {len(self.headers)} RGB messages",
        )


def key(header):
    return header.stamp.sec, header.stamp.nanosec, header.frame_id


@pytest.mark.parametrize(("compressed", "count"), [(False, 4_000), (True, 1_000)], ids=["raw", "compressed"])
def test_every_mutated_rgb_message_gets_one_status_and_the_node_fuses_afterwards(
    graph, capfd, compressed, count
):
    transport = "compressed" if compressed else "raw"
    process = graph.fusion(
        {
            **{"rgb_transport": transport, "thermal_transport": transport, "registration.mode": "depth"},
            **{"deadline_s": 0.005, "max_latency_s": 10.0, "debug_images": True},
        }
    )
    down = graph.downstream(keep_pixels=False)
    sender = Sender(graph.node, down, compressed)
    wait_until(sender.connected, 30, "fusion node subscribing")
    wait_until(lambda: graph.node.count_publishers("fused/status"), 10, "the node's publishers")
    time.sleep(1.0)  # the last endpoints match
    bounded(process)
    sent, fuzzer = 0, Fuzzer(seed=0, compressed=compressed)
    while sent < count:
        topic, fields = next(fuzzer)
        if sendable(fields):
            sender.send(topic, fields)
            sent += 1
    wait_until(lambda: len(down.statuses) >= len(sender.headers), 10, "the last answers")
    time.sleep(0.5)  # would there be more than one
    assert process.poll() is None
    statuses = list(down.statuses)
    assert Counter(key(s.header) for s in statuses) == Counter(key(h) for h in sender.headers)
    modes = Counter(s.mode for s in statuses)
    assert modes[FusionStatus.DROPPED] == 0, modes
    answered = [s for s in statuses if s.mode != FusionStatus.REFUSED]
    assert len(down.images) == len(answered)
    assert all(s.reason for s in statuses if s.mode != FusionStatus.FUSED)
    reasons = {s.reason for s in statuses}
    assert not [reason[:200] for reason in reasons if not reason.isprintable() or len(reason) > 1000]
    if not compressed:
        assert_fuses_again(graph, down, statuses[-1])
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output, output[output.index("Traceback") :][:3000]


def assert_fuses_again(graph, down, last):
    """Sound images and their calibration follow, at the rate of a camera."""
    cameras = CameraDrivers(graph.node, default_calibration(RGB_PX, THERMAL_PX))
    wait_until(cameras.connected, 10, "the node listening to the cameras")
    time.sleep(0.5)
    rgb = np.full((*RGB_PX[::-1], 3), 90, np.uint8)
    thermal = np.linspace(28_000, 31_000, np.prod(THERMAL_PX)).reshape(THERMAL_PX[::-1]).astype(np.uint16)
    start_ns, done = 2_000 * NS_PER_S, len(down.statuses)
    for step in range(300):
        stamp_ns = start_ns + step * NS_PER_S // 30
        cameras.publish("thermal", stamp_ns, thermal + np.uint16(step))  # the same again would be frozen
        cameras.publish("rgb", stamp_ns, rgb)
        time.sleep(1 / 30)
        if any(s.mode == FusionStatus.FUSED for s in down.statuses[done:]):
            return
    raise AssertionError(f"never FUSED again: {down.statuses[-1].reason or last.reason}")
