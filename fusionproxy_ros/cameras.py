"""One RGB and one thermal camera of the node: their topics, calibration and health, and what is published for them."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros import messages, transport
from fusionproxy_ros.frames import NS_PER_S, Fused, Mode, Pair
from fusionproxy_ros.fuser import overlay
from fusionproxy_ros.guard import Guard
from fusionproxy_ros.health import FusionStatus, Health
from fusionproxy_ros.inputs import Inputs
from fusionproxy_ros.parameters import Parameters
from fusionproxy_ros.rig import AlignmentWatch, Rig, View
from fusionproxy_ros.status import DROPPED, NO_DEPTH, REFUSED
from fusionproxy_ros.sync_policy import make_sync
from fusionproxy_ros.worker import Lane, Worker

STALLS = "fusing takes far longer than usual: RGB passes meanwhile"
HANGS_NS = NS_PER_S
HANGS = "fusing hangs: RGB passes, and after a while it begins anew on the CPU; see what ails the GPU (dmesg)"


def _outputs(prefix: str, debug_images: bool) -> dict[str, tuple]:
    """Name -> message type and topic of everything that is published for a frame."""
    outputs = {
        "image": (Image, f"{prefix}fused/image"),
        "camera_info": (CameraInfo, f"{prefix}fused/camera_info"),
    }
    if FusionStatus:
        outputs["status"] = (FusionStatus, f"{prefix}fused/status")
    if debug_images:
        outputs["thermal"] = (Image, f"~/{prefix}debug/thermal_registered")
        outputs["overlay"] = (Image, f"~/{prefix}debug/overlay")
    return outputs


@dataclass(frozen=True)
class Answer:
    """What is published for a pair. view: how thermal was registered; None without. start_ns: of fusing."""

    fused: Fused
    view: View | None
    start_ns: int


class CameraPair:
    """Made at configure, ended by `close`; from `start` to `stop` its frames are answered by the worker.

    name: the first part of its topics (front/rgb/image_raw, front/fused/image); empty for an only pair.
    lookup: (rgb_frame, thermal_frame) -> rotation, translation_m, from TF; None where no TF is used.
    """

    def __init__(self, node, name: str, settings: Parameters, guard: Guard, lookup: Callable | None):
        self.name, self._node, self._settings, self._guard = name, node, settings, guard
        prefix = f"{name}/" if name else ""
        self._health = Health(
            *(
                node.resolve_topic_name(f"{prefix}{camera}/image_raw{transport.TOPIC_SUFFIX[kind]}")
                for camera, kind in (("rgb", settings.rgb_transport), ("thermal", settings.thermal_transport))
            ),
            node.resolve_topic_name(f"{prefix}depth/image") if settings.registration_mode == "depth" else "",
            name or "fusion",
        )
        self._rig = Rig(settings, self._health.topics[:2], lookup)
        self._watch = AlignmentWatch(self._rig)
        self._inputs = Inputs(node, prefix, settings, self._health, self._rig, self._refuse)
        self._lane: Lane | None = None
        self._outputs = {}
        try:
            for output, (kind, topic) in _outputs(prefix, settings.debug_images).items():
                self._outputs[output] = node.create_lifecycle_publisher(
                    kind,
                    topic,
                    QoSProfile(depth=10),
                    event_callbacks=PublisherEventCallbacks(matched=lambda _: self.follow_demand()),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
        except Exception:  # such as an impossible QoS override
            self.close()
            raise

    def close(self) -> None:
        """Give back what the node made for it."""
        for publisher in self._outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._outputs = {}

    def start(self, worker: Worker) -> None:
        """Let `worker` answer its frames."""
        p = self._settings
        sync = make_sync(p.sync_policy, p.sync_config())
        self._lane = worker.add_lane(sync, p.max_latency_ns, self)
        self.follow_demand()

    def stop(self) -> None:
        """Unsubscribe; harmless twice."""
        self._lane = None
        self.follow_demand()

    def follow_demand(self) -> None:
        """Listen to the cameras while started and while somebody listens to an output."""
        if self._lane and any(p.get_subscription_count() for p in self._outputs.values()):
            self._inputs.open(self._lane)
        else:
            self._inputs.close()

    def set_settings(self, settings: Parameters) -> None:
        """Parameters that may have changed, those that may while it runs."""
        self._settings = settings
        self._rig.set_settings(settings)
        if self._lane:
            self._lane.configure(settings.sync_config(), settings.max_latency_ns)

    @property
    def problem(self) -> str:
        """Why thermal is not used, for a log; empty while it is."""
        return f"{self._health.topics[1]} is not used: {self._rig.problem}" if self._rig.problem else ""

    def diagnose(self) -> list[DiagnosticStatus]:
        """The last second; call it about once a second."""
        self.follow_demand()
        self._rig.follow_transforms()
        publishers = {topic: self._node.count_publishers(topic) for topic in self._health.topics}
        profile, idle = transport.large_image_profile(), self._lane is not None and not self._inputs.is_open
        return self._health.diagnose(publishers, profile, self._settings, self._guard.error, idle)

    # --- worker -------------------------------------------------------------------------------------------

    def _refuse(self, header, reason: str) -> None:
        self._publish("status", self._health.unanswered(header, REFUSED, reason))

    def skip(self, pair: Pair) -> None:
        reason = "overload: older than max_latency_s, and a newer frame is ready"
        self._publish("status", self._health.unanswered(pair.rgb.source.header, DROPPED, reason))

    def fuse(self, pair: Pair) -> Answer:
        start_ns, view = time.monotonic_ns(), None
        try:
            view = self._rig.view(pair) if pair.thermal else None
            fused = self._guard.fuse(self.name, pair, view)
            if self._health.depth and pair.thermal and not pair.depth:
                fused = replace(fused, reason=fused.reason or NO_DEPTH)
        except Exception as error:  # whatever one frame does, it is answered
            self._failed()
            fused = Fused(pair.rgb.pixels, Mode.PASSTHROUGH, f"{type(error).__name__}: {error}")
        return Answer(fused, view, start_ns)

    def pass_through(self, pair: Pair, stalled_ns: int) -> None:
        reason = STALLS
        if stalled_ns > HANGS_NS:
            reason = self._health.error = HANGS
        fused = Fused(pair.rgb.pixels, Mode.PASSTHROUGH, reason)
        self.publish(pair, Answer(fused, None, time.monotonic_ns()))

    def abandon(self) -> None:
        self._guard.abandon(self.name)

    def publish(self, pair: Pair, answer: Answer) -> None:
        try:
            self._publish_answer(pair, answer)
        except Exception:  # the worker must outlive whatever one frame does
            self._failed()

    def _failed(self) -> None:
        """Tell of the exception in hand."""
        if self._node.context.ok():  # else the process is ending and publishers are gone
            self._health.error = traceback.format_exc(limit=-1)
            self._node.log_error(traceback.format_exc())

    def _publish_answer(self, pair: Pair, answer: Answer) -> None:
        fused, view, fused_ns = answer.fused, answer.view, time.monotonic_ns()
        source, encoding = pair.rgb.source, pair.rgb.encoding
        if fused.pixels is pair.rgb.pixels and getattr(source, "encoding", None) == encoding:
            self._publish("image", source)
        else:
            self._publish("image", messages.fill_image(Image(), source.header, fused.pixels, encoding))
        if info := self._inputs.rgb_info:
            info.header = source.header
            self._publish("camera_info", info)
        self._health.misalignment = self._watch.estimate
        status = self._health.answered(pair, fused, view, answer.start_ns, fused_ns, time.monotonic_ns())
        self._publish("status", status)
        self._watch.offer(pair, fused, view, self._settings)
        if "overlay" in self._outputs and fused.thermal is not None:
            self._publish("thermal", messages.fill_image(Image(), source.header, fused.thermal, "mono8"))
            picture = overlay(pair.rgb, fused.thermal)
            self._publish("overlay", messages.fill_image(Image(), source.header, picture, encoding))

    def _publish(self, output: str, msg) -> None:
        if output in self._outputs:
            self._outputs[output].publish(msg)
