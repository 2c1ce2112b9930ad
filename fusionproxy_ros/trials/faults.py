"""The fault catalogue of `fusionproxy soak`: everything that can go wrong around the node, each thing by name.

A fault edits the scheduled messages of the cameras, or acts on processes, parameters and the graph while it lasts.
"""

import os
import signal
import subprocess  # noqa: TID251  # lists of arguments only
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import numpy as np
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSLivelinessPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros.trials.harness import TrialError, wait_until
from fusionproxy_ros.trials.soak_plan import PERIOD_NS, Edit, Fault, PlannedMessage
from fusionproxy_ros.trials.soak_processes import SoakProcesses

MS = 1_000_000  # nanoseconds


# --- edits of the schedule ------------------------------------------------------------------------------------

Change = Callable[[PlannedMessage, int, list[PlannedMessage]], list[PlannedMessage]]


def _each(cameras: str, change: Change) -> Edit:
    """Put `change(message, i, mine)` in the place of the i-th of `mine`, the messages of these cameras.

    cameras: their names, with a space between them.
    """

    def edit(messages: list[PlannedMessage]) -> list[PlannedMessage]:
        mine = [message for message in messages if message.camera in cameras.split()]
        others = [message for message in messages if message.camera not in cameras.split()]
        return others + [new for i, message in enumerate(mine) for new in change(message, i, mine)]

    return edit


def _dropped(cameras: str, n: int = 1) -> Edit:
    """Every n-th message."""
    return _each(cameras, lambda message, i, mine: [message] if i % n else [])


def _stamped(cameras: str, stamp: Callable[[int, int, int], int]) -> Edit:
    """Another stamp: `stamp(stamp_ns, i, since_ns)` for the i-th message, since_ns after the first of the fault."""

    def change(message, i, mine):
        if message.stamp_ns is None:  # by another fault
            return [message]
        return [replace(message, stamp_ns=stamp(message.stamp_ns, i, message.at_ns - mine[0].at_ns))]

    return _each(cameras, change)


def _shifted(cameras: str, by_ns: int) -> Edit:
    return _stamped(cameras, lambda stamp_ns, i, since_ns: stamp_ns + by_ns)


def _fast(cameras: str, percent: int) -> Edit:
    """A clock that runs that much too fast from the first message on."""
    return _stamped(cameras, lambda stamp_ns, i, since_ns: stamp_ns + since_ns * percent // 100)


def _late(camera: str, by_ns: int) -> Edit:
    """A camera does not overtake itself: what is still missing at the end comes then, all at once."""
    return _each(camera, lambda sent, i, mine: [replace(sent, at_ns=min(sent.at_ns + by_ns, mine[-1].at_ns))])


def _in_bursts(camera: str, n: int) -> Edit:
    """n messages at a time, when the last of them is due."""

    def change(message, i, mine):
        last = mine[min(i // n * n + n, len(mine)) - 1]
        return [replace(message, at_ns=last.at_ns)]

    return _each(camera, change)


def _more(camera: str, n: int) -> Edit:
    """n messages for one, evenly spaced."""

    def later(message: PlannedMessage, by_ns: int) -> PlannedMessage:
        stamp_ns = None if message.stamp_ns is None else message.stamp_ns + by_ns
        return replace(message, at_ns=message.at_ns + by_ns, stamp_ns=stamp_ns)

    return _each(camera, lambda message, i, mine: [later(message, k * PERIOD_NS // n) for k in range(n)])


def _edited(camera: str, edit: Callable[..., None], n: int = 1, usable: bool = True) -> Edit:
    """Every n-th message."""

    def change(message, i, mine):
        edited = replace(message, edits=(*message.edits, edit), usable=message.usable and usable)
        return [message if i % n else edited]

    return _each(camera, change)


def _unstamped(message: PlannedMessage, i: int, mine: list[PlannedMessage]) -> list[PlannedMessage]:
    return [replace(message, stamp_ns=None)]


def _without_info(message: PlannedMessage, i: int, mine: list[PlannedMessage]) -> list[PlannedMessage]:
    return [replace(message, has_info=False)]


def _frozen(message: PlannedMessage, i: int, mine: list[PlannedMessage]) -> list[PlannedMessage]:
    return [replace(message, picture=mine[0].picture, noise=mine[0].noise)]


def _shutter(message: PlannedMessage, i: int, mine: list[PlannedMessage]) -> list[PlannedMessage]:
    """A camera that corrects itself once a second: 15 identical frames, then 2 overexposed ones."""
    if i % 30 < 15:
        return _frozen(message, i, mine[i // 30 * 30 :])
    return [replace(message, edits=(*message.edits, _overexposed))] if i % 30 < 17 else [message]


def _stuttering(stamp_ns: int, i: int, since_ns: int) -> int:
    return stamp_ns - (i % 10 == 0) * 1000 * MS


def _every_second_a_period_back(stamp_ns: int, i: int, since_ns: int) -> int:
    return stamp_ns - i % 2 * PERIOD_NS


# --- edits of messages ----------------------------------------------------------------------------------------


def _cropped(image: Image, info: CameraInfo) -> None:
    image.height //= 2
    image.data = image.data[: image.height * image.step]


def _encoded(encoding: str, image: Image, info: CameraInfo) -> None:
    image.encoding = encoding


def _truncated(image: Image, info: CameraInfo) -> None:
    image.data = image.data[: len(image.data) // 3]


def _step_too_small(image: Image, info: CameraInfo) -> None:
    image.step = 1


def _refill(image: Image, pixels: np.ndarray) -> None:
    del image.data[:]
    image.data.frombytes(pixels.tobytes())


def _garbage(image: Image, info: CameraInfo) -> None:
    rng = np.random.default_rng(image.header.stamp.nanosec)
    _refill(image, rng.integers(0, 256, len(image.data), np.uint8))


def _overexposed(image: Image, info: CameraInfo) -> None:
    _refill(image, np.full(len(image.data), 255, np.uint8))


def _uncalibrated(image: Image, info: CameraInfo) -> None:
    info.k = [0.0] * 9


def _zoomed(image: Image, info: CameraInfo) -> None:
    info.k = [*(info.k[:2] * 1.2), *info.k[2:4], *(info.k[4:5] * 1.2), *info.k[5:]]


# --- acts -----------------------------------------------------------------------------------------------------


@contextmanager
def _cpu_hogs(processes: SoakProcesses) -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


BAD_PARAMETERS = {
    "sync_tolerance_s": 5.0,
    "deadline_s": "soon",
    "max_hold_s": -1.0,
    "registration.plane_depth_m": 0.0,
    "no_such_parameter": 1.0,
}


@contextmanager
def _parameters(processes: SoakProcesses) -> Iterator[None]:
    """Bad values must be refused with a reason; good ones are set, and reset at the end."""
    client = processes.parameters

    def set_parameters(values: Mapping[str, object], good: bool) -> None:
        try:
            wait_until(client.services_are_ready, 2.0, "the node's parameter services")
            future = client.set_parameters([Parameter(name, value=value) for name, value in values.items()])
            wait_until(future.done, 2.0, "the answer to set_parameters")
        except TrialError as error:
            processes.problems.append(str(error))
            return
        answer = future.result()
        assert answer is not None  # it is done
        for (name, value), result in zip(values.items(), answer.results, strict=True):
            if result.successful != good or not (good or result.reason):
                processes.problems.append(
                    f"{name}={value}: successful={result.successful}, '{result.reason}'"
                )

    set_parameters(BAD_PARAMETERS, good=False)
    set_parameters({"sync_tolerance_s": 0.05}, good=True)
    yield
    set_parameters({"sync_tolerance_s": 0.06}, good=True)


@contextmanager
def _thermal_killed(processes: SoakProcesses) -> Iterator[None]:
    processes.thermal.kill()
    yield
    processes.start_thermal()


@contextmanager
def _thermal_stopped(processes: SoakProcesses) -> Iterator[None]:
    pid = processes.thermal.pid
    assert pid is not None  # it was started
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # another fault killed it meanwhile
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _best_effort_thermal(processes: SoakProcesses) -> Iterator[None]:
    """A second thermal publisher, best effort: reliability "auto" follows it, without losing the first."""
    qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    publisher = processes.node.create_publisher(Image, "thermal/image_raw", qos)
    try:
        yield
    finally:
        processes.node.destroy_publisher(publisher)


@contextmanager
def _absurd_subscribers(processes: SoakProcesses) -> Iterator[None]:
    """Peers that ask for what no camera stream offers; the node must not care."""
    wishes = (
        {"durability": QoSDurabilityPolicy.TRANSIENT_LOCAL},
        {"deadline": Duration(nanoseconds=1)},
        {"liveliness": QoSLivelinessPolicy.MANUAL_BY_TOPIC},
    )
    subscriptions = [
        processes.node.create_subscription(
            Image, "fused/image", lambda msg: None, QoSProfile(depth=1, **wish)
        )
        for wish in wishes
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            processes.node.destroy_subscription(subscription)


@contextmanager
def _node_killed(processes: SoakProcesses) -> Iterator[None]:
    time.sleep(0.5)  # frames of the time before are answered
    processes.fusion.kill()
    processes.fusion.wait()
    yield
    processes.start_fusion()


# --- the catalogue --------------------------------------------------------------------------------------------

# Alone and in pairs, all against one node process, whose memory is watched.
FAULTS = (
    Fault("thermal late", _late("thermal", 150 * MS), must_be_reported=True),
    Fault("thermal missing", _dropped("thermal"), must_be_reported=True),
    Fault("thermal 1 in 3 dropped", _dropped("thermal", 3)),
    Fault("thermal frozen", _each("thermal", _frozen), must_be_reported=True),
    Fault("thermal shutter", _each("thermal", _shutter), must_be_reported=True),
    Fault("thermal resolution", _edited("thermal", _cropped), must_be_reported=True),
    Fault("thermal encoding", _edited("thermal", partial(_encoded, "yuv422")), must_be_reported=True),
    Fault("thermal garbage", _edited("thermal", _garbage)),
    Fault("thermal truncated", _edited("thermal", _truncated), must_be_reported=True),
    Fault("thermal step", _edited("thermal", _step_too_small), must_be_reported=True),
    Fault("thermal stamps zero", _each("thermal", _unstamped), must_be_reported=True),
    Fault("thermal stamps ahead", _shifted("thermal", 10_000 * MS), must_be_reported=True),
    Fault("thermal stamps back", _shifted("thermal", -10_000 * MS), must_be_reported=True),
    Fault("thermal stamps stutter", _stamped("thermal", _stuttering)),
    Fault("thermal clock offset", _shifted("thermal", 300 * MS)),
    Fault("thermal clock drift", _fast("thermal", 5)),
    Fault("thermal duplicated", _each("thermal", lambda message, i, mine: [message, message])),
    Fault("thermal camera_info K=0", _edited("thermal", _uncalibrated), must_be_reported=True),
    Fault("thermal camera_info changes", _edited("thermal", _zoomed, n=10)),
    Fault("thermal killed", act=_thermal_killed, must_be_reported=True, kills="camera", tail_s=8.0),
    Fault("thermal stopped", act=_thermal_stopped, must_be_reported=True),
    Fault("thermal best effort", act=_best_effort_thermal),
    Fault("rgb late", _late("rgb", 150 * MS)),
    Fault("rgb in bursts", _in_bursts("rgb", 5)),
    Fault("rgb 1 in 3 dropped", _dropped("rgb", 3)),
    Fault("rgb frozen", _each("rgb", _frozen)),
    Fault("rgb resolution", _edited("rgb", _cropped), must_be_reported=True),
    Fault("rgb encoding", _edited("rgb", partial(_encoded, "no_such_encoding")), must_be_reported=True),
    Fault("rgb truncated", _edited("rgb", _truncated, n=3, usable=False), must_be_reported=True),
    Fault("rgb step", _edited("rgb", _step_too_small, n=3, usable=False), must_be_reported=True),
    Fault("rgb stamps zero", _each("rgb", _unstamped), must_be_reported=True),
    Fault("rgb stamps ahead", _shifted("rgb", 10_000 * MS), must_be_reported=True),
    Fault("rgb stamps back", _shifted("rgb", -10_000 * MS), must_be_reported=True),
    Fault("rgb stamps double", _stamped("rgb", _every_second_a_period_back)),
    Fault("rgb camera_info K=0", _edited("rgb", _uncalibrated), must_be_reported=True),
    Fault("camera_info missing", _each("rgb thermal", _without_info)),
    Fault("bag looped", _shifted("rgb thermal", -10_000 * MS)),
    Fault("overload", _more("rgb", 4)),
    Fault("cpu hogs", act=_cpu_hogs),
    Fault("parameters", act=_parameters),
    Fault("absurd subscribers", act=_absurd_subscribers),
)

# Against a node of its own with use_sim_time.
CLOCK_FAULTS = (
    Fault("clock stops", _dropped("clock")),
    Fault("clock back", _shifted("clock rgb thermal", -10_000 * MS)),
    Fault("clock twice as fast", _fast("clock rgb thermal", 100)),
    Fault("bag paused", _dropped("clock rgb thermal")),
)

# Against a node of their own, since a new process says nothing of the old one's memory.
KILL_FAULTS = (Fault("node killed", act=_node_killed, kills="node", tail_s=15.0),)
