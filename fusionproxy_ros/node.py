"""FusionNode: subscribe -> sync -> worker thread -> publish. It only wires; the work is in the files before it."""

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros import messages, parameters, transport
from fusionproxy_ros.frames import Frame, Fused, FusionError, Mode, Pair
from fusionproxy_ros.fuser import Fuser, keep_freed_memory, overlay
from fusionproxy_ros.health import DROPPED, REFUSED, FusionStatus, Health, InputHealth
from fusionproxy_ros.rig import AlignmentWatch, Rig, View
from fusionproxy_ros.student import DEFAULT_STUDENT, load_student
from fusionproxy_ros.sync import NearestSync
from fusionproxy_ros.tf import TransformSource
from fusionproxy_ros.worker import Worker


def _told(transition):
    """rclpy turns an exception in a transition into ERROR without a word; this says which it was."""

    @wraps(transition)
    def told(self, state):
        try:
            return transition(self, state)
        except Exception:
            if self.context.ok():  # else a signal ended the process in mid-transition
                self.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            raise

    return told


class FusionNode(LifecycleNode):
    """Callbacks run in one single-threaded executor; one worker thread owns the fuser and publishes."""

    def __init__(self, **kwargs):
        super().__init__("fusion", **kwargs)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._settings = parameters.Parameters()
        self._worker: Worker | None = None
        self._unsubscribe: list[Callable] = []
        self._outputs: dict = {}

    # --- lifecycle ----------------------------------------------------------------------------------------

    @_told
    def on_configure(self, state) -> TransitionCallbackReturn:
        try:
            self._settings = p = parameters.read(self)
            student = load_student(Path(p.student_path) if p.student_path else DEFAULT_STUDENT)
            self._fuser = Fuser(student, p.normalisation_config(), p.device, p.threads)
            self._fuser.warm_up()
            self._transforms = TransformSource(self) if p.extrinsics_source == "tf" else None
        except FusionError as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._health = Health(
            self.resolve_topic_name("rgb/image_raw" + transport.TOPIC_SUFFIX[p.rgb_transport]),
            self.resolve_topic_name("thermal/image_raw" + transport.TOPIC_SUFFIX[p.thermal_transport]),
            self.resolve_topic_name("depth/image") if p.registration_mode == "depth" else "",
        )
        self._rgb_info: CameraInfo | None = None
        self._rig = Rig(p, self._health.topics[:2], self._transforms and self._transforms.lookup)
        self._watch = AlignmentWatch(self._rig)
        outputs = {"image": (Image, "fused/image"), "camera_info": (CameraInfo, "fused/camera_info")}
        if FusionStatus:
            outputs["status"] = (FusionStatus, "fused/status")
        if p.debug_images:
            outputs["thermal"] = (Image, "~/debug/thermal_registered")
            outputs["overlay"] = (Image, "~/debug/overlay")
        qos, overrides = QoSProfile(depth=10), QoSOverridingOptions.with_default_policies()
        self._outputs = {
            name: self.create_lifecycle_publisher(kind, topic, qos, qos_overriding_options=overrides)
            for name, (kind, topic) in outputs.items()
        }
        self._timer = self.create_timer(1.0, self._diagnose)
        # A looped bag or a restarted simulation; without use_sim_time the clock hardly ever jumps back.
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=lambda jump: self._worker and self._worker.reset(),
        )
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_activate(self, state) -> TransitionCallbackReturn:
        p, health = self._settings, self._health
        self._worker = Worker(NearestSync(p.sync_config()), p.max_latency_ns, self._answer, self._skip)
        # Best effort receives from every publisher, and a lost camera_info is followed by the next.
        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        for topic, on_image, kind in (
            (health.rgb, self._on_rgb, p.rgb_transport),
            (health.thermal, self._on_thermal, p.thermal_transport),
            *([(health.depth, self._on_depth, "raw")] if health.depth else []),
        ):
            images = transport.ImageSubscription(self, topic, on_image, kind, p.reliability)
            self._unsubscribe.append(images.destroy)
        for name, topic in ("rgb", health.rgb), ("thermal", health.thermal):
            on_info = partial(self._on_camera_info, name, topic)
            infos = self.create_subscription(CameraInfo, f"{name}/camera_info", on_info, qos)
            self._unsubscribe.append(partial(self.destroy_subscription, infos))
        return super().on_activate(state)

    @_told
    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self.stop()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self.destroy_timer(self._timer)
        self._jumps.unregister()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._fuser = None
        if self._transforms:
            self._transforms.destroy()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self.stop()
        return super().on_shutdown(state)

    def stop(self) -> None:
        """Unsubscribe and end the worker; harmless when neither runs."""
        while self._unsubscribe:
            self._unsubscribe.pop()()
        if self._worker:
            self._worker.stop()
            self._worker = None

    # --- inputs -------------------------------------------------------------------------------------------

    def _on_rgb(self, msg) -> None:
        if not self._worker:  # deactivated while this message was on its way
            return
        now_ns = time.monotonic_ns()
        self._health.rgb.images.tick(now_ns)
        stamp_ns = messages.stamp_to_ns(msg.header.stamp)
        reason = "" if stamp_ns else "RGB stamp is zero: have the driver stamp its images"
        try:
            frame = messages.read_rgb(msg, now_ns)
        except messages.EncodingError as error:  # downstream gets what the camera sent
            reason = str(error)
            frame = Frame(stamp_ns, msg.header.frame_id, np.empty((0, 0)), msg.encoding, now_ns, msg)
        except messages.MessageError as error:
            self.get_logger().warning(f"{self._health.rgb.topic}: {error}", throttle_duration_sec=1.0)
            self._publish("status", self._health.unanswered(msg.header, REFUSED, str(error)))
            return
        self._worker.add_rgb(frame, reason)

    def _on_thermal(self, msg) -> None:
        self._enter(msg, self._health.thermal, messages.read_thermal, Worker.add_thermal)

    def _on_depth(self, msg) -> None:
        self._enter(msg, self._health.depth, messages.read_depth, Worker.add_depth)

    def _enter(self, msg, health: InputHealth, read: Callable, add: Callable) -> None:
        if not self._worker:
            return
        now_ns = time.monotonic_ns()
        health.images.tick(now_ns)
        try:
            add(self._worker, read(msg, now_ns))
        except messages.MessageError as error:
            health.refuse(str(error))
            self.get_logger().warning(f"{health.topic}: {error}", throttle_duration_sec=1.0)

    def _on_camera_info(self, name: str, health: InputHealth, msg: CameraInfo) -> None:
        health.infos.tick(time.monotonic_ns())
        if name == "rgb":
            self._rgb_info = msg
        self._rig.set_camera_info(name, msg)

    def _on_set_parameters(self, updates) -> SetParametersResult:
        try:
            new = parameters.changed(self._settings, updates)
        except FusionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._worker:  # what is not live waits for the next configure
            self._settings = replace(self._settings, **parameters.live_values(new))
            self._worker.configure(self._settings.sync_config(), self._settings.max_latency_ns)
            self._rig.set_settings(self._settings)
        return SetParametersResult(successful=True)

    # --- worker -------------------------------------------------------------------------------------------

    def _skip(self, pair: Pair) -> None:
        reason = "overload: older than max_latency_s, and a newer frame is ready"
        self._publish("status", self._health.unanswered(pair.rgb.source.header, DROPPED, reason))

    def _answer(self, pair: Pair) -> None:
        try:
            self._fuse_and_publish(pair)
        except Exception:  # the worker must outlive whatever one frame does
            if self.context.ok():  # else the process is ending and publishers are gone
                self._health.error = traceback.format_exc(limit=-1)
                self.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)

    def _fuse_and_publish(self, pair: Pair) -> None:
        start_ns = time.monotonic_ns()
        view = self._rig.view(pair) if pair.thermal else None
        fused = self._fuse(pair, view)
        fused_ns = time.monotonic_ns()
        source, encoding = pair.rgb.source, pair.rgb.encoding
        if fused.pixels is pair.rgb.pixels and getattr(source, "encoding", None) == encoding:
            self._publish("image", source)
        else:
            self._publish("image", messages.fill_image(Image(), source.header, fused.pixels, encoding))
        if info := self._rgb_info:
            info.header = source.header
            self._publish("camera_info", info)
        self._watch.offer(pair, fused, view, self._settings)
        self._health.misalignment = self._watch.estimate
        status = self._health.answered(pair, fused, view, start_ns, fused_ns, time.monotonic_ns())
        self._publish("status", status)
        if "overlay" in self._outputs and fused.thermal is not None:
            self._publish("thermal", messages.fill_image(Image(), source.header, fused.thermal, "mono8"))
            picture = overlay(pair.rgb, fused.thermal)
            self._publish("overlay", messages.fill_image(Image(), source.header, picture, encoding))

    def _fuse(self, pair: Pair, view: View | None) -> Fused:
        """Whatever is wrong with thermal, calibration or student: the RGB frame is answered."""
        if view and view.registration is None:
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, view.problem)
        try:
            fused = self._fuser.fuse(pair, view and view.registration)
            if self._health.depth and pair.thermal and not pair.depth:
                reason = "no depth image within registration.depth_tolerance_s: thermal lies on the plane"
                fused = replace(fused, reason=fused.reason or reason)
            return fused
        except Exception as error:
            self._health.error = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, self._health.error)

    def _publish(self, name: str, msg) -> None:
        if name in self._outputs:
            self._outputs[name].publish(msg)

    def _diagnose(self) -> None:
        self._rig.follow_transforms()
        if self._rig.problem:
            self.get_logger().warning(f"thermal is not used: {self._rig.problem}", throttle_duration_sec=10.0)
        publishers = {topic: self.count_publishers(topic) for topic in self._health.topics}
        profile, warn_px = transport.large_image_profile(), self._settings.misalignment_warn_px
        array = DiagnosticArray(status=self._health.diagnose(publishers, profile, warn_px))
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main() -> int:
    """Entry of `ros2 run fusionproxy_ros fusion_node`; the exit code."""
    keep_freed_memory()
    transport.use_large_segments()
    rclpy.init()
    executor, node = SingleThreadedExecutor(), None
    try:
        node = FusionNode()
        executor.add_node(node)
        autostart = node.get_parameter("autostart").value
        if autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor.spin()
    except FusionError as error:
        print(f"fusion_node: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else a signal took the context away in the middle of the start
            raise
    finally:
        if node:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
