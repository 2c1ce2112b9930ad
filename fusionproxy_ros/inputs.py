"""The cameras' topics -> frames in the worker. A message that cannot be used never raises out of a callback."""

import time
from collections.abc import Callable
from functools import partial

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from fusionproxy_ros import messages
from fusionproxy_ros.health import Health, InputHealth
from fusionproxy_ros.parameters import Parameters
from fusionproxy_ros.rig import Rig
from fusionproxy_ros.transport import ImageSubscription
from fusionproxy_ros.worker import Lane


class Inputs:
    """Subscriptions of `node`, made by `open` and ended by `close`; both are harmless twice.

    prefix: of the topics of camera_info; those of images are in `health`.
    refuse(header, reason): told of an RGB message that gets no output.
    rgb_info: the latest CameraInfo of the RGB camera, or None.
    """

    def __init__(self, node, prefix: str, settings: Parameters, health: Health, rig: Rig, refuse: Callable):
        self._node, self._prefix, self._settings = node, prefix, settings
        self._health, self._rig = health, rig
        self._refuse = refuse
        self._lane: Lane | None = None
        self._subscriptions: list[Callable] = []  # what ends each
        self.rgb_info: CameraInfo | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._subscriptions)

    def open(self, lane: Lane) -> None:
        """Subscribe; frames go to `lane`."""
        if self.is_open:
            return
        self._lane, p, health = lane, self._settings, self._health
        for topic, on_image, kind in (
            (health.rgb, self._on_rgb, p.rgb_transport),
            (health.thermal, self._on_thermal, p.thermal_transport),
            *([(health.depth, self._on_depth, "raw")] if health.depth else []),
        ):
            images = ImageSubscription(self._node, topic, on_image, kind, p.reliability)
            self._subscriptions.append(images.destroy)
        # Best effort receives from every publisher, and a lost camera_info is followed by the next.
        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        for name, topic in ("rgb", health.rgb), ("thermal", health.thermal):
            on_info = partial(self._on_camera_info, name, topic)
            infos = self._node.create_subscription(
                CameraInfo, f"{self._prefix}{name}/camera_info", on_info, qos
            )
            self._subscriptions.append(partial(self._node.destroy_subscription, infos))

    def close(self) -> None:
        """Unsubscribe. A message that is on its way already is ignored."""
        self._lane = None
        while self._subscriptions:
            self._subscriptions.pop()()

    def _on_rgb(self, msg) -> None:
        if not self._lane:
            return
        now_ns, health = time.monotonic_ns(), self._health.rgb
        health.images.tick(now_ns)
        try:
            frame, reason = messages.take_rgb(msg, now_ns)
        except messages.MessageError as error:
            self._warn(health, str(error))
            self._refuse(msg.header, str(error))
            return
        if frame.stamp_ns:
            health.clock.add(frame.stamp_ns, now_ns)
        self._lane.add_rgb(frame, reason)

    def _on_thermal(self, msg) -> None:
        self._enter(msg, self._health.thermal, messages.read_thermal, Lane.add_thermal)

    def _on_depth(self, msg) -> None:
        self._enter(msg, self._health.depth, messages.read_depth, Lane.add_depth)

    def _enter(self, msg, health: InputHealth, read: Callable, add: Callable) -> None:
        if not self._lane:
            return
        now_ns = time.monotonic_ns()
        health.images.tick(now_ns)
        try:
            frame = read(msg, now_ns)
        except messages.MessageError as error:
            health.refuse(str(error))
            self._warn(health, str(error))
            return
        health.clock.add(frame.stamp_ns, now_ns)
        add(self._lane, frame)

    def _on_camera_info(self, name: str, health: InputHealth, msg: CameraInfo) -> None:
        health.infos.tick(time.monotonic_ns())
        if name == "rgb":
            self.rgb_info = msg
        self._rig.set_camera_info(name, msg)

    def _warn(self, health: InputHealth, reason: str) -> None:
        self._node.get_logger().warning(f"{health.topic}: {reason}", throttle_duration_sec=1.0)
