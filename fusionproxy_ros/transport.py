"""What lets large images travel between processes without loss and in time: segments and QoS."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ament_index_python.packages import get_package_share_directory
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

if TYPE_CHECKING:  # cameras and players need none of what it imports
    from fusionproxy_ros.health import InputHealth

QUEUE = (
    30  # images: 0.25 s of a 120 Hz camera, so that a busy moment loses none before the worker counts them
)
TOPIC_SUFFIX = {"raw": "", "compressed": "/compressed"}  # by transport, as image_transport names them


def share_path(*parts: str) -> Path:
    """A file that was installed to share/fusionproxy_ros."""
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # the PyPI wheels do not set it
    return Path(get_package_share_directory("fusionproxy_ros"), *parts)


def large_image_profile() -> str:
    """Path of the shipped Fast DDS profile."""
    return str(share_path("config", "fastdds_large_images.xml"))


def use_large_image_profile() -> None:
    """Have Fast DDS in this process and its children use the shipped profile, unless the user chose another.

    Call before rclpy starts. Fast DDS's own shared-memory segment of 512 KiB holds no 640x480 rgb8 image, and its
    queues keep the memory of the most images that ever waited in them.
    """
    variable = "FASTRTPS" if os.environ.get("ROS_DISTRO") == "jazzy" else "FASTDDS"
    ours = large_image_profile()
    if os.environ.setdefault(f"{variable}_DEFAULT_PROFILES_FILE", ours) == ours:
        # Else rmw_fastrtps looks at the participant's part of it alone. With another profile it would overrule more.
        os.environ.setdefault("RMW_FASTRTPS_USE_QOS_FROM_XML", "1")


class ImageSubscription:
    """Subscribes to an image topic and follows the reliability that its publisher offers.

    transport: "raw" or "compressed". reliability: "reliable", "best_effort", or "auto", which asks for reliable and
    subscribes again as best effort when a publisher offers no more. What happens is written to `health`.
    """

    def __init__(self, node, health: "InputHealth", callback: Callable, transport: str, reliability: str):
        self._node, self._health, self._callback = node, health, callback
        self._type = Image if transport == "raw" else CompressedImage
        self._follow = reliability == "auto"
        self._subscribe(
            QoSReliabilityPolicy.BEST_EFFORT
            if reliability == "best_effort"
            else QoSReliabilityPolicy.RELIABLE
        )

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self, reliability: QoSReliabilityPolicy) -> None:
        self._health.reliability, self._health.subscribed_ns = reliability.name, time.monotonic_ns()
        self._health.incompatible = ""
        self._subscription = self._node.create_subscription(
            self._type,
            self._health.topic,
            self._callback,
            QoSProfile(depth=QUEUE, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible, message_lost=self._on_lost
            ),
            # Reliability is a parameter of its own: an override would pin what "auto" has to change.
            qos_overriding_options=QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)),
        )

    def _on_incompatible(self, event) -> None:
        if self._follow and event.last_policy_kind == QoSPolicyKind.RELIABILITY:
            # Later, since this event belongs to the subscription that has to go.
            self._node.executor.create_task(self._follow_best_effort)
        else:
            self._health.incompatible = qos_policy_name_from_kind(event.last_policy_kind)

    def _follow_best_effort(self) -> None:
        if self._health.reliability == QoSReliabilityPolicy.RELIABLE.name:
            self._node.get_logger().info(
                f"{self._health.topic}: its publisher is best effort; subscribing likewise"
            )
            self.destroy()
            self._subscribe(QoSReliabilityPolicy.BEST_EFFORT)

    def _on_lost(self, event) -> None:
        self._health.losses.tick(time.monotonic_ns(), event.total_count_change)
