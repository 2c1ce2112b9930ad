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
from fusionproxy_ros.registration import RegistrationError
from fusionproxy_ros.student import DEFAULT_STUDENT, load_student
from fusionproxy_ros.sync import NearestSync
from fusionproxy_ros.worker import Worker, run_in_background


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
        except FusionError as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._infos: dict[str, CameraInfo] = {}
        self._wanted = p, {}
        self._build_registration(self._wanted)
        self._health = Health(
            self.resolve_topic_name("rgb/image_raw" + transport.TOPIC_SUFFIX[p.rgb_transport]),
            self.resolve_topic_name("thermal/image_raw" + transport.TOPIC_SUFFIX[p.thermal_transport]),
        )
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
        for name, topic, on_image, kind in (
            ("rgb", health.rgb, self._on_rgb, p.rgb_transport),
            ("thermal", health.thermal, self._on_thermal, p.thermal_transport),
        ):
            images = transport.ImageSubscription(self, topic, on_image, kind, p.reliability)
            self._unsubscribe.append(images.destroy)
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
        if not self._worker:
            return
        now_ns, health = time.monotonic_ns(), self._health.thermal
        health.images.tick(now_ns)
        try:
            frame = messages.read_thermal(msg, now_ns)
        except messages.MessageError as error:
            health.refuse(str(error))
            self.get_logger().warning(f"{health.topic}: {error}", throttle_duration_sec=1.0)
            return
        self._worker.add_thermal(frame)

    def _on_camera_info(self, name: str, health: InputHealth, msg: CameraInfo) -> None:
        health.infos.tick(time.monotonic_ns())
        previous, self._infos[name] = self._infos.get(name), msg
        if previous is None or messages.intrinsics(previous) != messages.intrinsics(msg):
            self._calibrate()

    def _calibrate(self) -> None:
        """Rebuild the registration in the background: a new lookup grid takes tenths of a second, frames go on."""
        self._wanted = wanted = self._settings, dict(self._infos)
        if self._registration[0] is None:
            self._registration = None, "the lookup grid of the calibration is being built"
        run_in_background(self._build_registration, wanted)

    def _build_registration(self, wanted: tuple) -> None:
        settings, infos = wanted
        rectified = {"rgb": settings.rgb_is_rectified, "thermal": False}
        cameras = {name: messages.read_camera_info(msg, rectified[name]) for name, msg in infos.items()}
        registration, problem = None, ""
        try:
            registration = settings.registration(cameras)
            if len(cameras) == 2:
                registration.grid(*((cameras[n].width_px, cameras[n].height_px) for n in ("thermal", "rgb")))
        except RegistrationError as error:
            problem = str(error)
            self.get_logger().warning(problem, throttle_duration_sec=1.0)
        if wanted is self._wanted:  # else a newer calibration is being built
            self._registration = registration, problem

    def _on_set_parameters(self, updates) -> SetParametersResult:
        try:
            new = parameters.changed(self._settings, updates)
        except FusionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._worker:  # what is not live waits for the next configure
            old, self._settings = self._settings, replace(self._settings, **parameters.live_values(new))
            self._worker.configure(self._settings.sync_config(), self._settings.max_latency_ns)
            if self._settings.plane_depth_m != old.plane_depth_m:
                self._calibrate()
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
        fused = self._fuse(pair)
        fused_ns = time.monotonic_ns()
        source, encoding = pair.rgb.source, pair.rgb.encoding
        if fused.pixels is pair.rgb.pixels and getattr(source, "encoding", None) == encoding:
            self._publish("image", source)
        else:
            self._publish("image", messages.fill_image(Image(), source.header, fused.pixels, encoding))
        if info := self._infos.get("rgb"):
            info.header = source.header
            self._publish("camera_info", info)
        self._publish("status", self._health.answered(pair, fused, start_ns, fused_ns, time.monotonic_ns()))
        if "overlay" in self._outputs and fused.thermal is not None:
            self._publish("thermal", messages.fill_image(Image(), source.header, fused.thermal, "mono8"))
            picture = overlay(pair.rgb, fused.thermal)
            self._publish("overlay", messages.fill_image(Image(), source.header, picture, encoding))

    def _fuse(self, pair: Pair) -> Fused:
        """Whatever is wrong with thermal, calibration or student: the RGB frame is answered."""
        registration, problem = self._registration
        if pair.thermal is not None and registration is None:
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, problem)
        try:
            return self._fuser.fuse(pair, registration)
        except Exception as error:
            self._health.error = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=1.0)
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, self._health.error)

    def _publish(self, name: str, msg) -> None:
        if name in self._outputs:
            self._outputs[name].publish(msg)

    def _diagnose(self) -> None:
        publishers = {topic: self.count_publishers(topic) for topic in self._health.topics}
        array = DiagnosticArray(status=self._health.diagnose(publishers, transport.large_image_profile()))
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
