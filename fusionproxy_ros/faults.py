"""The fault catalogue of `fusionproxy soak`: everything that can go wrong around the node, each thing by name.

A fault edits the scheduled messages of the cameras, or acts on processes, parameters and the graph while it lasts.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSLivelinessPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from fusionproxy_ros.demo import DemoError, wait_until
from fusionproxy_ros.frames import NS_PER_S

MS = 1_000_000  # nanoseconds
PERIOD_NS = NS_PER_S // 30  # of both cameras


@dataclass(frozen=True)
class Shot:
    """One message that a camera is to publish.

    at_ns: when, after the start of the run. stamp_ns: its stamp, on the same axis; None is the stamp zero.
    camera: "rgb", "thermal" or "clock" (/clock). slot: the part of the run that it belongs to.
    picture, noise: which pixels; equal numbers give equal bits.
    edits: each changes the Image and the CameraInfo in place before they go out.
    has_info: its CameraInfo is published too. usable: the node must answer it; else it may refuse it.
    faulty: planned while a fault lasts, though it may go out later.
    """

    at_ns: int
    stamp_ns: int | None
    camera: str
    slot: int
    picture: int
    noise: int
    edits: tuple[Callable[[Image, CameraInfo], None], ...] = ()
    has_info: bool = True
    usable: bool = True
    faulty: bool = False


Edit = Callable[[list[Shot]], list[Shot]]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong for a while.

    edit: the shots of that while -> what is sent instead.
    act: takes the soak.Bench; its context is open for that while.
    told: at least one status must give a reason; False where the node cannot or need not notice.
    kills: "node" or "camera", a process; starting it again takes the machine for a while, and the gap is exempt. Of a
        killed node, one run of consecutive frames may go unanswered.
    tail_s: clean time that it needs afterwards, where a process has to start again.
    """

    name: str
    edit: Edit = list
    act: Callable[..., AbstractContextManager] = nullcontext
    told: bool = False
    kills: str = ""
    tail_s: float = 0.0


# --- edits of the schedule ------------------------------------------------------------------------------------


def _each(cameras: str, change: Callable[[Shot, int, list[Shot]], list[Shot]]) -> Edit:
    """Put `change(shot, i, mine)` in the place of the i-th of `mine`, the shots of these cameras (names in a row)."""

    def edit(shots):
        mine = [shot for shot in shots if shot.camera in cameras.split()]
        others = [shot for shot in shots if shot.camera not in cameras.split()]
        return others + [new for i, shot in enumerate(mine) for new in change(shot, i, mine)]

    return edit


def _dropped(cameras: str, n: int = 1) -> Edit:
    """Every n-th shot."""
    return _each(cameras, lambda shot, i, mine: [shot] if i % n else [])


def _stamped(cameras: str, stamp: Callable[[Shot, int, list[Shot]], int]) -> Edit:
    def change(shot, i, mine):  # what has no stamp, by another fault, keeps none
        return [shot if shot.stamp_ns is None else replace(shot, stamp_ns=stamp(shot, i, mine))]

    return _each(cameras, change)


def _shifted(cameras: str, by_ns: int) -> Edit:
    return _stamped(cameras, lambda shot, i, mine: shot.stamp_ns + by_ns)


def _fast(cameras: str, percent: int) -> Edit:
    """A clock that runs that much too fast from the first shot on."""
    return _stamped(
        cameras, lambda shot, i, mine: shot.stamp_ns + (shot.at_ns - mine[0].at_ns) * percent // 100
    )


def _late(camera: str, by_ns: int) -> Edit:
    """A camera does not overtake itself: what is still missing at the end comes then, all at once."""
    return _each(camera, lambda shot, i, mine: [replace(shot, at_ns=min(shot.at_ns + by_ns, mine[-1].at_ns))])


def _in_bursts(camera: str, n: int) -> Edit:
    """n shots at a time, when the last of them is due."""

    def change(shot, i, mine):
        last = mine[min(i // n * n + n, len(mine)) - 1]
        return [replace(shot, at_ns=last.at_ns)]

    return _each(camera, change)


def _more(camera: str, n: int) -> Edit:
    """n shots for one, evenly spaced."""

    def change(shot, i, mine):
        shifts_ns = [k * PERIOD_NS // n for k in range(n)]
        stamps_ns = [shot.stamp_ns and shot.stamp_ns + ns for ns in shifts_ns]
        pairs_ns = zip(shifts_ns, stamps_ns, strict=True)
        return [replace(shot, at_ns=shot.at_ns + by, stamp_ns=stamp) for by, stamp in pairs_ns]

    return _each(camera, change)


def _edited(camera: str, edit: Callable, n: int = 1, usable: bool = True) -> Edit:
    """Every n-th message."""

    def change(shot, i, mine):
        edited = replace(shot, edits=(*shot.edits, edit), usable=shot.usable and usable)
        return [shot if i % n else edited]

    return _each(camera, change)


def _unstamped(shot: Shot, i: int, mine: list[Shot]) -> list[Shot]:
    return [replace(shot, stamp_ns=None)]


def _without_info(shot: Shot, i: int, mine: list[Shot]) -> list[Shot]:
    return [replace(shot, has_info=False)]


def _stuttering(shot: Shot, i: int, mine: list[Shot]) -> int:
    return shot.stamp_ns - (i % 10 == 0) * 1000 * MS


def _frozen(shot: Shot, i: int, mine: list[Shot]) -> list[Shot]:
    return [replace(shot, picture=mine[0].picture, noise=mine[0].noise)]


def _shutter(shot: Shot, i: int, mine: list[Shot]) -> list[Shot]:
    """A camera that corrects itself once a second: 15 identical frames, then 2 overexposed ones."""
    if i % 30 < 15:
        return _frozen(shot, i, mine[i // 30 * 30 :])
    return [replace(shot, edits=(*shot.edits, _overexposed))] if i % 30 < 17 else [shot]


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
def _cpu_hogs(bench):
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
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
def _parameters(bench):
    """Bad values must be refused with a reason; good ones are set, and reset at the end."""
    client = bench.parameters

    def set_parameters(values: dict, good: bool) -> None:
        try:
            wait_until(client.services_are_ready, 2.0, "the node's parameter services")
            future = client.set_parameters([Parameter(name, value=value) for name, value in values.items()])
            wait_until(future.done, 2.0, "the answer to set_parameters")
        except DemoError as error:
            bench.problems.append(str(error))
            return
        for (name, value), result in zip(values.items(), future.result().results, strict=True):
            if result.successful != good or not (good or result.reason):
                bench.problems.append(f"{name}={value}: successful={result.successful}, '{result.reason}'")

    set_parameters(BAD_PARAMETERS, good=False)
    set_parameters({"sync_tolerance_s": 0.05}, good=True)
    yield
    set_parameters({"sync_tolerance_s": 0.06}, good=True)


@contextmanager
def _thermal_killed(bench):
    bench.thermal.kill()
    yield
    bench.start_thermal()


@contextmanager
def _thermal_stopped(bench):
    pid = bench.thermal.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # another fault killed it meanwhile
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _best_effort_thermal(bench):
    """A second thermal publisher, best effort: reliability "auto" follows it, without losing the first."""
    qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    publisher = bench.node.create_publisher(Image, "thermal/image_raw", qos)
    try:
        yield
    finally:
        bench.node.destroy_publisher(publisher)


@contextmanager
def _absurd_subscribers(bench):
    """Peers that ask for what no camera stream offers; the node must not care."""
    wishes = (
        {"durability": QoSDurabilityPolicy.TRANSIENT_LOCAL},
        {"deadline": Duration(nanoseconds=1)},
        {"liveliness": QoSLivelinessPolicy.MANUAL_BY_TOPIC},
    )
    subscriptions = [
        bench.node.create_subscription(Image, "fused/image", lambda msg: None, QoSProfile(depth=1, **wish))
        for wish in wishes
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            bench.node.destroy_subscription(subscription)


@contextmanager
def _node_killed(bench):
    time.sleep(0.5)  # frames of the time before are answered
    bench.fusion.kill()
    bench.fusion.wait()
    yield
    bench.start_fusion()


# --- the catalogue --------------------------------------------------------------------------------------------

NONE = Fault("none")

# Alone and in pairs, all against one node process, whose memory is watched.
FAULTS = (
    Fault("thermal late", _late("thermal", 150 * MS), told=True),
    Fault("thermal missing", _dropped("thermal"), told=True),
    Fault("thermal 1 in 3 dropped", _dropped("thermal", 3)),
    Fault("thermal frozen", _each("thermal", _frozen), told=True),
    Fault("thermal shutter", _each("thermal", _shutter), told=True),
    Fault("thermal resolution", _edited("thermal", _cropped), told=True),
    Fault("thermal encoding", _edited("thermal", partial(_encoded, "yuv422")), told=True),
    Fault("thermal garbage", _edited("thermal", _garbage)),
    Fault("thermal truncated", _edited("thermal", _truncated), told=True),
    Fault("thermal step", _edited("thermal", _step_too_small), told=True),
    Fault("thermal stamps zero", _each("thermal", _unstamped), told=True),
    Fault("thermal stamps ahead", _shifted("thermal", 10_000 * MS), told=True),
    Fault("thermal stamps back", _shifted("thermal", -10_000 * MS), told=True),
    Fault("thermal stamps stutter", _stamped("thermal", _stuttering)),
    Fault("thermal clock offset", _shifted("thermal", 300 * MS)),
    Fault("thermal clock drift", _fast("thermal", 5)),
    Fault("thermal duplicated", _each("thermal", lambda shot, i, mine: [shot, shot])),
    Fault("thermal camera_info K=0", _edited("thermal", _uncalibrated), told=True),
    Fault("thermal camera_info changes", _edited("thermal", _zoomed, n=10)),
    Fault("thermal killed", act=_thermal_killed, told=True, kills="camera", tail_s=8.0),
    Fault("thermal stopped", act=_thermal_stopped, told=True),
    Fault("thermal best effort", act=_best_effort_thermal),
    Fault("rgb late", _late("rgb", 150 * MS)),
    Fault("rgb in bursts", _in_bursts("rgb", 5)),
    Fault("rgb 1 in 3 dropped", _dropped("rgb", 3)),
    Fault("rgb frozen", _each("rgb", _frozen)),
    Fault("rgb resolution", _edited("rgb", _cropped), told=True),
    Fault("rgb encoding", _edited("rgb", partial(_encoded, "no_such_encoding")), told=True),
    Fault("rgb truncated", _edited("rgb", _truncated, n=3, usable=False), told=True),
    Fault("rgb step", _edited("rgb", _step_too_small, n=3, usable=False), told=True),
    Fault("rgb stamps zero", _each("rgb", _unstamped), told=True),
    Fault("rgb stamps ahead", _shifted("rgb", 10_000 * MS), told=True),
    Fault("rgb stamps back", _shifted("rgb", -10_000 * MS), told=True),
    Fault("rgb stamps double", _stamped("rgb", lambda shot, i, mine: shot.stamp_ns - i % 2 * PERIOD_NS)),
    Fault("rgb camera_info K=0", _edited("rgb", _uncalibrated), told=True),
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
