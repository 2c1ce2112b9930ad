"""FusionNode: it connects subscriptions, workers and publishers over its lifecycle. It only wires."""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from importlib import metadata
from itertools import cycle

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from fusionproxy_ros.core.allocator import give_back_freed_memory
from fusionproxy_ros.core.background import run_in_background
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.parameter_declaration import ParameterError
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, Weights, read_weights
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.pipeline.fuser_pool import FuserPool
from fusionproxy_ros.pipeline.settings import GivenParameters, Settings
from fusionproxy_ros.pipeline.worker import Worker, workers_for
from fusionproxy_ros.ros import parameters
from fusionproxy_ros.ros.camera_pair import CameraPair
from fusionproxy_ros.ros.message_filters_sync import make_sync
from fusionproxy_ros.ros.transforms import TransformSource

TIDY_PERIOD_S = 10.0
TICK_S = 1.0


def _logged(transition):
    """rclpy turns an exception in a transition into ERROR without a word; this logs which it was."""

    @wraps(transition)
    def logged(self, state):
        try:
            return transition(self, state)
        except Exception:
            if self.context.ok():  # else a signal ended the process in mid-transition
                self.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            raise

    return logged


def build_fusers(
    settings: dict[str, Settings], student: Weights, warn: Callable[[str], None], device: str
) -> dict[str, Fuser]:
    """A fuser for each camera pair by its name, all with the same student, warmed up."""
    asked = next(iter(settings.values())).student
    if device != asked.device:
        warn(f"student.device is {asked.device}, which fails: the student runs on the {device} instead")
    fusers = {
        name: Fuser(student, of_pair.gain, device, asked.threads, warn) for name, of_pair in settings.items()
    }
    for fuser in fusers.values():
        fuser.warm_up()
    return fusers


class FusionNode(LifecycleNode):
    """Callbacks run in one single-threaded executor; workers own the fusers, each those of some pairs, and publish."""

    def __init__(self, **kwargs):
        super().__init__("fusion", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._wrong_parameters = parameters.declare(self)
        self._given = GivenParameters({})
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._workers: list[Worker] = []
        self._cameras: list[CameraPair] = []
        self._configured: ExitStack | None = None  # gives back each thing that on_configure made

    # --- lifecycle ----------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Of its lifecycle: "unconfigured", "inactive" or "active"."""
        return "active" if self._workers else "inactive" if self._configured else "unconfigured"

    def reach(self, state: str) -> None:
        """From unconfigured to `state`, or as far as it goes; what stops it is logged."""
        if state == "unconfigured" or self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return
        if state == "active":
            self.trigger_activate()

    @_logged
    def on_configure(self, state) -> TransitionCallbackReturn:
        try:
            if self._wrong_parameters:
                raise ParameterError("; ".join(self._wrong_parameters.values()))
            self._configure(parameters.read(self))
        except FusionError as error:
            self.get_logger().error(f"cannot configure: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _configure(self, given: GivenParameters) -> None:
        self._given = given
        settings = {name: given.of(name) for name in given.cameras}
        for of_pair in settings.values():
            make_sync(of_pair.sync)  # says now what it would say at activation
        registration.warm_up()
        asked = settings[given.cameras[0]].student
        student = read_weights(asked.path or DEFAULT_STUDENT)
        self._configured = made = ExitStack()
        build = partial(build_fusers, settings, student, self._warn)
        pool = FuserPool(build, asked.device, self.log_error)
        made.callback(pool.close)
        transforms = None
        if any(of_pair.registration.extrinsics_source == "tf" for of_pair in settings.values()):
            transforms = TransformSource(self)
            made.callback(transforms.destroy)
        for name, of_pair in settings.items():
            by_tf = of_pair.registration.extrinsics_source == "tf"
            lookup = transforms.lookup if transforms and by_tf else None
            self._cameras.append(CameraPair(self, name, of_pair, pool, lookup))
            made.callback(self._cameras[-1].close)
        # A looped bag or a restarted simulation; without use_sim_time the clock hardly ever jumps back.
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_jump_back,
        )
        made.callback(jumps.unregister)
        # Of normal priority: malloc_trim holds the allocator's lock, and a low-priority thread would block the others.
        tidy = partial(run_in_background, give_back_freed_memory, urgent=True)
        for period_s, callback in ((TICK_S, self._tick), (TIDY_PERIOD_S, tidy)):
            # Steady: it also ticks while a simulation or a bag pauses.
            timer = self.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
            made.callback(self.destroy_timer, timer)

    @_logged
    def on_activate(self, state) -> TransitionCallbackReturn:
        threads = self._given.of(self._cameras[0].name).student.threads
        self._workers = [Worker() for _ in range(workers_for(len(self._cameras), threads))]
        for cameras, worker in zip(self._cameras, cycle(self._workers)):
            cameras.start(worker)
        return super().on_activate(state)

    @_logged
    def on_deactivate(self, state) -> TransitionCallbackReturn:
        self.stop()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._release()
        return super().on_shutdown(state)

    @_logged
    def on_error(self, state) -> TransitionCallbackReturn:
        """Back to unconfigured, from where everything can be tried again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Unsubscribe and end the workers; harmless when none runs."""
        workers, self._workers = self._workers, []
        for cameras in self._cameras:
            cameras.stop()
        for worker in workers:
            worker.stop()

    def _release(self) -> None:
        """Give back all that configure and activate took, in whatever state they were left; harmless twice."""
        self.stop()
        self._cameras = []
        configured, self._configured = self._configured, None
        if configured:
            configured.close()

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _on_set_parameters(self, updates) -> SetParametersResult:
        try:
            self._given = parameters.changed(self._given, updates, only_live=self._configured is not None)
        except FusionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for update in updates:
            self._wrong_parameters.pop(update.name, None)
        for cameras in self._cameras:
            cameras.set_settings(self._given.of(cameras.name))
        return SetParametersResult(successful=True)

    def _on_jump_back(self, jump) -> None:
        for worker in self._workers:
            worker.reset()

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    def log_error(self, text: str) -> None:
        """At most once a second."""
        self.get_logger().error(text, throttle_duration_sec=1.0)

    def _tick(self) -> None:
        for cameras in self._cameras:
            cameras.tick()
        array = DiagnosticArray(status=[one for cameras in self._cameras for one in cameras.diagnose()])
        if problems := "; ".join(cameras.problem for cameras in self._cameras if cameras.problem):
            self.get_logger().warning(problems, throttle_duration_sec=10.0)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def _refuse_unknown_transition(self: FusionNode, transition_id: int) -> TransitionCallbackReturn:
    """A transition that the state does not have is refused.

    Workaround: up to rclpy 7 (Jazzy) the call raises RuntimeError there, which would end the process; from rclpy 9
    (Kilted) on it returns ERROR by itself. rclpy has no public name for it. Goes when Jazzy does.
    """
    try:
        return LifecycleNode._LifecycleNodeMixin__change_state(self, transition_id)  # type: ignore[attr-defined]
    except RuntimeError as error:
        self.get_logger().error(f"no such transition from here: {error}")
        return TransitionCallbackReturn.ERROR


def _rclpy_major() -> int:
    """Its version; 0 where that is not to be had."""
    try:
        return int(metadata.version("rclpy").partition(".")[0])
    except metadata.PackageNotFoundError:
        return 0


if _rclpy_major() < 9:
    FusionNode._LifecycleNodeMixin__change_state = _refuse_unknown_transition  # type: ignore[attr-defined]
