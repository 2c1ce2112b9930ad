"""FusionNode: subscribe -> sync -> worker thread -> publish. It only wires; the work is in the files before it."""

import gc
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros import declared, messages, transport
from fusionproxy_ros.frames import FusionError, Pair
from fusionproxy_ros.fuser import Fuser, overlay
from fusionproxy_ros.guard import Guard
from fusionproxy_ros.health import FusionStatus, Health
from fusionproxy_ros.inputs import Inputs
from fusionproxy_ros.memory import keep_freed_memory
from fusionproxy_ros.parameters import ParameterError, Parameters
from fusionproxy_ros.rig import AlignmentWatch, Rig
from fusionproxy_ros.status import DROPPED, NO_DEPTH, REFUSED
from fusionproxy_ros.student import DEFAULT_STUDENT, Student, load_student
from fusionproxy_ros.sync_policy import make_sync
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


def _outputs(p: Parameters) -> dict[str, tuple]:
    """Name -> message type and topic of everything that is published for a frame."""
    outputs = {"image": (Image, "fused/image"), "camera_info": (CameraInfo, "fused/camera_info")}
    if FusionStatus:
        outputs["status"] = (FusionStatus, "fused/status")
    if p.debug_images:
        outputs["thermal"] = (Image, "~/debug/thermal_registered")
        outputs["overlay"] = (Image, "~/debug/overlay")
    return outputs


def _build_fuser(p: Parameters, student: Student, warn: Callable[[str], None], device: str) -> Fuser:
    if device != p.device:
        warn(f"student.device is {p.device}, which fails: the student runs on the {device} instead")
    fuser = Fuser(student, p.normalisation_config(), device, p.threads, warn)
    fuser.warm_up()
    return fuser


class FusionNode(LifecycleNode):
    """Callbacks run in one single-threaded executor; one worker thread owns the fuser and publishes."""

    def __init__(self, **kwargs):
        super().__init__("fusion", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._wrong_parameters = declared.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._settings = Parameters()
        self._worker: Worker | None = None
        self._outputs: dict = {}
        self._inputs: Inputs | None = None
        self._configured: list[Callable] = []  # what releases each thing that on_configure made

    # --- lifecycle ----------------------------------------------------------------------------------------

    @_told
    def on_configure(self, state) -> TransitionCallbackReturn:
        try:
            if self._wrong_parameters:
                raise ParameterError("; ".join(self._wrong_parameters.values()))
            self._configure(declared.read(self))
        except FusionError as error:
            self.get_logger().error(f"cannot configure: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self, p: Parameters) -> None:
        self._settings = p
        make_sync(p.sync_policy, p.sync_config())  # says now what it would say at activation
        student_path = Path(p.student_path) if p.student_path else DEFAULT_STUDENT
        build = partial(_build_fuser, p, load_student(student_path), self.get_logger().warning)
        self._guard = Guard(build, p.device, self._log_error)
        transforms = TransformSource(self) if p.extrinsics_source == "tf" else None
        self._configured += [self._guard.close, *([transforms.destroy] if transforms else [])]
        self._health = Health(
            self.resolve_topic_name("rgb/image_raw" + transport.TOPIC_SUFFIX[p.rgb_transport]),
            self.resolve_topic_name("thermal/image_raw" + transport.TOPIC_SUFFIX[p.thermal_transport]),
            self.resolve_topic_name("depth/image") if p.registration_mode == "depth" else "",
        )
        self._rig = Rig(p, self._health.topics[:2], transforms and transforms.lookup)
        self._watch = AlignmentWatch(self._rig)
        self._inputs = Inputs(self, p, self._health, self._rig, self._refuse)
        for name, (kind, topic) in _outputs(p).items():
            self._outputs[name] = self.create_lifecycle_publisher(
                kind,
                topic,
                QoSProfile(depth=10),
                event_callbacks=PublisherEventCallbacks(matched=lambda _: self._follow_demand()),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            self._configured.append(partial(self.destroy_lifecycle_publisher, self._outputs[name]))
        # Steady: it also ticks while a simulation or a bag pauses.
        timer = self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A looped bag or a restarted simulation; without use_sim_time the clock hardly ever jumps back.
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=lambda jump: self._worker and self._worker.reset(),
        )
        self._configured += [partial(self.destroy_timer, timer), jumps.unregister]

    @_told
    def on_activate(self, state) -> TransitionCallbackReturn:
        p = self._settings
        self._worker = Worker(
            make_sync(p.sync_policy, p.sync_config()), p.max_latency_ns, self._answer, self._skip
        )
        self._follow_demand()
        return super().on_activate(state)

    @_told
    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self.stop()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    @_told
    def on_error(self, state) -> TransitionCallbackReturn:
        """Back to unconfigured, from where everything can be tried again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Unsubscribe and end the worker; harmless when neither runs."""
        worker, self._worker = self._worker, None
        self._follow_demand()
        if worker:
            worker.stop()

    def _release(self) -> None:
        """Give back all that configure and activate took, in whatever state they were left; harmless twice."""
        self.stop()
        self._outputs = {}
        while self._configured:
            self._configured.pop()()

    def _follow_demand(self) -> None:
        """Listen to the cameras while active and while somebody listens to an output."""
        if self._worker and any(p.get_subscription_count() for p in self._outputs.values()):
            self._inputs.open(self._worker)
        elif self._inputs:
            self._inputs.close()

    def _on_set_parameters(self, updates) -> SetParametersResult:
        try:
            self._settings = declared.changed(self._settings, updates, only_live=bool(self._configured))
        except FusionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for update in updates:
            self._wrong_parameters.pop(update.name, None)
        if self._configured:
            self._rig.set_settings(self._settings)
        if self._worker:
            self._worker.configure(self._settings.sync_config(), self._settings.max_latency_ns)
        return SetParametersResult(successful=True)

    # --- worker -------------------------------------------------------------------------------------------

    def _refuse(self, header, reason: str) -> None:
        self._publish("status", self._health.unanswered(header, REFUSED, reason))

    def _skip(self, pair: Pair) -> None:
        reason = "overload: older than max_latency_s, and a newer frame is ready"
        self._publish("status", self._health.unanswered(pair.rgb.source.header, DROPPED, reason))

    def _answer(self, pair: Pair) -> None:
        try:
            self._fuse_and_publish(pair)
        except Exception:  # the worker must outlive whatever one frame does
            if self.context.ok():  # else the process is ending and publishers are gone
                self._health.error = traceback.format_exc(limit=-1)
                self._log_error(traceback.format_exc())

    def _fuse_and_publish(self, pair: Pair) -> None:
        start_ns = time.monotonic_ns()
        view = self._rig.view(pair) if pair.thermal else None
        fused = self._guard.fuse(pair, view)
        if self._health.depth and pair.thermal and not pair.depth:
            fused = replace(fused, reason=fused.reason or NO_DEPTH)
        fused_ns = time.monotonic_ns()
        source, encoding = pair.rgb.source, pair.rgb.encoding
        if fused.pixels is pair.rgb.pixels and getattr(source, "encoding", None) == encoding:
            self._publish("image", source)
        else:
            self._publish("image", messages.fill_image(Image(), source.header, fused.pixels, encoding))
        if info := self._inputs.rgb_info:
            info.header = source.header
            self._publish("camera_info", info)
        self._health.misalignment = self._watch.estimate
        status = self._health.answered(pair, fused, view, start_ns, fused_ns, time.monotonic_ns())
        self._publish("status", status)
        self._watch.offer(pair, fused, view, self._settings)
        if "overlay" in self._outputs and fused.thermal is not None:
            self._publish("thermal", messages.fill_image(Image(), source.header, fused.thermal, "mono8"))
            picture = overlay(pair.rgb, fused.thermal)
            self._publish("overlay", messages.fill_image(Image(), source.header, picture, encoding))

    def _log_error(self, text: str) -> None:
        self.get_logger().error(text, throttle_duration_sec=1.0)

    def _publish(self, name: str, msg) -> None:
        if name in self._outputs:
            self._outputs[name].publish(msg)

    def _diagnose(self) -> None:
        self._follow_demand()
        self._rig.follow_transforms()
        if self._rig.problem:
            self.get_logger().warning(f"thermal is not used: {self._rig.problem}", throttle_duration_sec=10.0)
        publishers = {topic: self.count_publishers(topic) for topic in self._health.topics}
        profile = transport.large_image_profile()
        idle = self._worker is not None and not self._inputs.is_open
        array = DiagnosticArray(
            status=self._health.diagnose(publishers, profile, self._settings, self._guard.error, idle)
        )
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
        executor.shutdown()
        rclpy.try_shutdown()
        node = executor = None
        gc.collect()  # what still holds the context, so that it goes now, and peers are told
        rclpy.get_default_context().destroy()
    return 0
