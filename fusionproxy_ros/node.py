"""FusionNode: subscribe -> sync -> worker thread -> publish. It only wires; the work is in the files before it."""

import traceback
from collections.abc import Callable
from functools import partial, wraps
from itertools import cycle

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from fusionproxy_ros import declared, registration
from fusionproxy_ros.cameras import CameraPair
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT, Weights, read_weights
from fusionproxy_ros.frames import FusionError
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.guard import Guard
from fusionproxy_ros.memory import give_back_freed_memory
from fusionproxy_ros.parameters import ParameterError, Parameters, Settings
from fusionproxy_ros.sync_policy import make_sync
from fusionproxy_ros.tf import TransformSource
from fusionproxy_ros.worker import Worker, run_in_background, workers_for

TIDY_PERIOD_S = 10.0


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


def _build_fusers(
    parameters: dict[str, Parameters], student: Weights, warn: Callable[[str], None], device: str
) -> dict[str, Fuser]:
    """A fuser for each camera pair, all with the same student."""
    first = next(iter(parameters.values()))
    if device != first.device:
        warn(f"student.device is {first.device}, which fails: the student runs on the {device} instead")
    fusers = {
        name: Fuser(student, p.normalisation_config(), device, p.threads, warn)
        for name, p in parameters.items()
    }
    for fuser in fusers.values():
        fuser.warm_up()
    return fusers


class FusionNode(LifecycleNode):
    """Callbacks run in one single-threaded executor; workers own the fusers, each those of some pairs, and publish."""

    def __init__(self, **kwargs):
        super().__init__("fusion", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._wrong_parameters = declared.declare(self)
        self._settings = Settings({})
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._workers: list[Worker] = []
        self._cameras: list[CameraPair] = []
        self._configured: list[Callable] = []  # what releases each thing that on_configure made

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

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:
        """Up to Jazzy's, rclpy raises where a state does not have the transition, and that would end the process."""
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)
        except RuntimeError as error:
            self.get_logger().error(f"no such transition from here: {error}")
            return TransitionCallbackReturn.ERROR

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

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        parameters = {name: settings.of(name) for name in settings.cameras}
        for p in parameters.values():
            make_sync(p.sync_policy, p.sync_config())  # says now what it would say at activation
        registration.warm_up()
        first = parameters[settings.cameras[0]]
        student = read_weights(first.student_path or DEFAULT_STUDENT)
        build = partial(_build_fusers, parameters, student, self.get_logger().warning)
        guard = Guard(build, first.device, self.log_error)
        self._configured.append(guard.close)
        by_tf = any(p.extrinsics_source == "tf" for p in parameters.values())
        transforms = TransformSource(self) if by_tf else None
        if transforms:
            self._configured.append(transforms.destroy)
        for name, p in parameters.items():
            lookup = transforms.lookup if p.extrinsics_source == "tf" else None
            self._cameras.append(CameraPair(self, name, p, guard, lookup))
            self._configured.append(self._cameras[-1].close)
        # Steady: it also ticks while a simulation or a bag pauses.
        timer = self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A looped bag or a restarted simulation; without use_sim_time the clock hardly ever jumps back.
        jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._on_jump_back,
        )
        # Urgent, since it holds the heap's lock: nobody may wait for what waits for a processor.
        tidy = partial(run_in_background, give_back_freed_memory, urgent=True)
        tidying = self.create_timer(TIDY_PERIOD_S, tidy, clock=Clock(clock_type=ClockType.STEADY_TIME))
        timers = [partial(self.destroy_timer, each) for each in (timer, tidying)]
        self._configured += [*timers, jumps.unregister]

    @_told
    def on_activate(self, state) -> TransitionCallbackReturn:
        threads = self._settings.of(self._cameras[0].name).threads
        self._workers = [Worker() for _ in range(workers_for(len(self._cameras), threads))]
        for cameras, worker in zip(self._cameras, cycle(self._workers)):
            cameras.start(worker)
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
        while self._configured:
            self._configured.pop()()

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _on_set_parameters(self, updates) -> SetParametersResult:
        try:
            self._settings = declared.changed(self._settings, updates, only_live=bool(self._configured))
        except FusionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for update in updates:
            self._wrong_parameters.pop(update.name, None)
        for cameras in self._cameras:
            cameras.set_settings(self._settings.of(cameras.name))
        return SetParametersResult(successful=True)

    def _on_jump_back(self, jump) -> None:
        for worker in self._workers:
            worker.reset()

    def log_error(self, text: str) -> None:
        """At most once a second."""
        self.get_logger().error(text, throttle_duration_sec=1.0)

    def _diagnose(self) -> None:
        array = DiagnosticArray(status=[one for cameras in self._cameras for one in cameras.diagnose()])
        if problems := "; ".join(cameras.problem for cameras in self._cameras if cameras.problem):
            self.get_logger().warning(problems, throttle_duration_sec=10.0)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
