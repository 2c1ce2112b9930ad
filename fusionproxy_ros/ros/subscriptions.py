"""The cameras' topics -> frames in the worker. A message that cannot be used never raises out of a callback."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.frames import Mode
from fusionproxy_ros.pipeline.settings import Settings, TopicSettings
from fusionproxy_ros.pipeline.worker import CameraQueue
from fusionproxy_ros.ros.diagnostics import Health, InputHealth

# Images: 0.25 s of a 120 Hz camera, so that a busy moment loses none before the worker counts them.
QUEUE = 30
TOPIC_SUFFIX = {"raw": "", "compressed": "/compressed"}  # by transport, as image_transport names them


def image_topics(node: Any, prefix: str, settings: Settings) -> tuple[str, str, str]:
    """RGB, thermal and depth images of one camera pair, as remapped; depth is empty where it is not wanted.

    prefix: of the pair's topics.
    """
    topics, wants_depth = settings.topics, settings.registration.mode == "depth"
    rgb, thermal = (
        node.resolve_topic_name(f"{prefix}{camera}/image_raw{TOPIC_SUFFIX[transport]}")
        for camera, transport in (("rgb", topics.rgb_transport), ("thermal", topics.thermal_transport))
    )
    return rgb, thermal, node.resolve_topic_name(f"{prefix}depth/image") if wants_depth else ""


class Subscriptions:
    """Subscriptions of `node`, made by `open` and ended by `close`; both are harmless twice.

    prefix: of the topics of camera_info; those of images are in `health`.
    set_camera_info(name, msg): told of each CameraInfo of "rgb" or "thermal".
    refuse(header, mode, reason): told of an RGB message that gets no output.
    rgb_info: the latest CameraInfo of the RGB camera, or None.
    """

    def __init__(
        self,
        node: Any,
        prefix: str,
        settings: TopicSettings,
        health: Health,
        set_camera_info: Callable[[str, CameraInfo], None],
        refuse: Callable[[Any, Mode, str], None],
    ):
        self._node, self._prefix, self._settings = node, prefix, settings
        self._health, self._set_camera_info, self._refuse = health, set_camera_info, refuse
        self._queue: CameraQueue | None = None
        self._subscriptions: list[Callable] = []  # what ends each
        self.rgb_info: CameraInfo | None = None

    @property
    def are_open(self) -> bool:
        return bool(self._subscriptions)

    def open(self, queue: CameraQueue) -> None:
        """Subscribe; frames go to `queue`."""
        if self.are_open:
            return
        self._queue, p, health = queue, self._settings, self._health
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
        self._queue = None
        while self._subscriptions:
            self._subscriptions.pop()()

    def _on_rgb(self, msg) -> None:
        if not self._queue:
            return
        now_ns, health = time.monotonic_ns(), self._health.rgb
        health.images.tick(now_ns)
        try:
            frame, reason = image_messages.take_rgb(msg, now_ns)
        except image_messages.MessageError as error:
            self._warn(health, str(error))
            self._refuse(msg.header, Mode.REFUSED, str(error))
            return
        if frame.stamp_ns:
            health.clock.add(frame.stamp_ns, now_ns)
        self._queue.add_rgb(frame, reason)

    def _on_thermal(self, msg) -> None:
        self._enter(msg, self._health.thermal, image_messages.read_thermal, CameraQueue.add_thermal)

    def _on_depth(self, msg) -> None:
        assert self._health.depth is not None
        self._enter(msg, self._health.depth, image_messages.read_depth, CameraQueue.add_depth)

    def _enter(self, msg, health: InputHealth, read: Callable, add: Callable) -> None:
        if not self._queue:
            return
        now_ns = time.monotonic_ns()
        health.images.tick(now_ns)
        try:
            frame = read(msg, now_ns)
        except image_messages.MessageError as error:
            health.refuse(str(error))
            self._warn(health, str(error))
            return
        health.clock.add(frame.stamp_ns, now_ns)
        add(self._queue, frame)

    def _on_camera_info(self, name: str, health: InputHealth, msg: CameraInfo) -> None:
        health.infos.tick(time.monotonic_ns())
        if name == "rgb":
            self.rgb_info = msg
        self._set_camera_info(name, msg)

    def _warn(self, health: InputHealth, reason: str) -> None:
        self._node.get_logger().warning(f"{health.topic}: {reason}", throttle_duration_sec=1.0)


class ImageSubscription:
    """Subscribes to an image topic and follows the reliability that its publisher offers.

    transport: "raw" or "compressed". reliability: "reliable", "best_effort", or "auto", which asks for reliable and
    subscribes again as best effort when a publisher offers no more. What happens is written to `health`.
    """

    def __init__(self, node, health: InputHealth, callback: Callable, transport: str, reliability: str):
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
