"""What one camera pair publishes for its frames."""

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.pictures import overlay
from fusionproxy_ros.pipeline.answers import Answer
from fusionproxy_ros.ros.diagnostics import FusionStatus


class Publishers:
    """Made at configure, ended by `close`. Published by the worker's threads, one at a time.

    prefix: of the topics. on_demand: called when a subscriber comes or goes.
    """

    def __init__(self, node: LifecycleNode, prefix: str, debug_images: bool, on_demand: Callable[[], None]):
        self._node = node
        self._publishers: dict[str, Any] = {}
        topics: dict[str, tuple[type, str]] = {
            "image": (Image, f"{prefix}fused/image"),
            "camera_info": (CameraInfo, f"{prefix}fused/camera_info"),
        }
        if FusionStatus:
            topics["status"] = (FusionStatus, f"{prefix}fused/status")
        if debug_images:
            topics["thermal"] = (Image, f"~/{prefix}debug/thermal_registered")
            topics["overlay"] = (Image, f"~/{prefix}debug/overlay")
        try:
            for output, (kind, topic) in topics.items():
                self._publishers[output] = node.create_lifecycle_publisher(
                    kind,
                    topic,
                    QoSProfile(depth=10),
                    event_callbacks=PublisherEventCallbacks(matched=lambda _: on_demand()),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
        except Exception:  # such as an impossible QoS override
            self.close()
            raise

    def close(self) -> None:
        """Take them from the node."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    @property
    def are_wanted(self) -> bool:
        """Whether somebody listens."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def publish_picture(self, answer: Answer, info: CameraInfo | None) -> None:
        """The picture and its camera_info. info: the RGB camera's latest; None before the first."""
        rgb, fused = answer.pair.rgb, answer.fused
        source, encoding = rgb.source, rgb.encoding
        if fused.pixels is rgb.pixels and getattr(source, "encoding", None) == encoding:
            self._publish("image", source)
        else:
            self._publish("image", image_messages.fill_image(Image(), source.header, fused.pixels, encoding))
        if info:
            info = copy(info)  # others keep it
            info.header = source.header
            self._publish("camera_info", info)

    def publish_status(self, status: Any) -> None:
        """A FusionStatus; nothing where that message is not installed."""
        self._publish("status", status)

    def publish_debug(self, answer: Answer) -> None:
        """Registered thermal, and its overlay on RGB."""
        rgb, thermal = answer.pair.rgb, answer.fused.thermal
        if "overlay" in self._publishers and thermal is not None:
            header = rgb.source.header
            self._publish("thermal", image_messages.fill_image(Image(), header, thermal, "mono8"))
            picture = overlay(rgb, thermal)
            self._publish("overlay", image_messages.fill_image(Image(), header, picture, rgb.encoding))

    def _publish(self, output: str, msg: Any) -> None:
        if output in self._publishers:
            self._publishers[output].publish(msg)
