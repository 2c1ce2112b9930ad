"""What a soak plays: when each fault happens, and what the cameras publish meanwhile; no ROS in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusionproxy_ros.core.frames import NS_PER_S

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, Image

FAULT_S, TAIL_S = 3.0, 2.5  # how long a fault lasts, and the clean time that follows
PERIOD_NS = NS_PER_S // 30  # of both cameras
THERMAL_PHASE_NS = 7_000_000  # free-running cameras do not expose together
CLOCK_PERIOD_NS = NS_PER_S // 50
FOOTAGE = 120  # pictures of each camera, rendered once and played in a loop


@dataclass(frozen=True)
class PlannedMessage:
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


Edit = Callable[[list[PlannedMessage]], list[PlannedMessage]]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong for a while.

    edit: the messages planned for that while -> what is sent instead.
    act: takes the SoakProcesses; its context is open for that while.
    must_be_reported: at least one status must give a reason; False where the node cannot or need not notice.
    kills: "node" or "camera", a process; starting it again takes the machine for a while, and the gap is exempt. Of a
        killed node, one run of consecutive frames may go unanswered.
    tail_s: clean time that it needs afterwards, where a process has to start again.
    """

    name: str
    edit: Edit = list
    act: Callable[..., AbstractContextManager] = nullcontext
    must_be_reported: bool = False
    kills: str = ""
    tail_s: float = 0.0


NO_FAULT = Fault("none")


@dataclass(frozen=True)
class Slot:
    """A part of a run: the faults from start_ns to end_ns, then clean until stop_ns; ns after the run's start."""

    faults: tuple[Fault, ...]
    start_ns: int
    end_ns: int
    stop_ns: int

    @property
    def name(self) -> str:
        return " + ".join(fault.name for fault in self.faults)


def slots_of(
    groups: Sequence[tuple[Fault, ...]], fault_s: float = FAULT_S, tail_s: float = TAIL_S
) -> list[Slot]:
    """One slot for each group of faults, one after the other."""
    slots, start_ns = [], 0
    for faults in groups:
        end_ns = start_ns + round(fault_s * NS_PER_S)
        stop_ns = end_ns + round(max(tail_s, *(fault.tail_s for fault in faults)) * NS_PER_S)
        slots.append(Slot(faults, start_ns, end_ns, stop_ns))
        start_ns = stop_ns
    return slots


def slots_of_pairs(faults: Sequence[Fault], minutes: float, seed: int) -> list[Slot]:
    """No fault, each fault alone, then random pairs until `minutes` are full."""
    rng = random.Random(seed)
    groups: list[tuple[Fault, ...]] = [(fault,) for fault in (NO_FAULT, *faults)]
    while slots_of(groups)[-1].stop_ns < minutes * 60 * NS_PER_S:
        groups.append(tuple(rng.sample(faults, 2)))
    return slots_of(groups)


def messages_of(slots: Sequence[Slot], with_clock: bool = False) -> list[PlannedMessage]:
    """What the cameras publish in all slots, in order of time."""
    streams = [("rgb", 0, PERIOD_NS), ("thermal", THERMAL_PHASE_NS, PERIOD_NS)]
    streams += [("clock", 0, CLOCK_PERIOD_NS)] if with_clock else []
    messages: list[PlannedMessage] = []
    for index, slot in enumerate(slots):
        during: list[PlannedMessage] = []
        for camera, phase_ns, period_ns in streams:
            first, last = (-(-(ns - phase_ns) // period_ns) for ns in (slot.start_ns, slot.stop_ns))
            for i in range(first, last):
                ns = phase_ns + i * period_ns
                message = PlannedMessage(ns, ns, camera, index, picture=i % FOOTAGE, noise=i)
                (during if ns < slot.end_ns else messages).append(message)
        for fault in slot.faults:
            during = fault.edit(during)
        messages += [replace(message, faulty=True) for message in during]
    return sorted(messages, key=lambda message: message.at_ns)


def frame_id_of(message: PlannedMessage, index: int) -> str:
    """Unique among all messages of a run, so that a frame is found again whatever a fault does to its stamp."""
    return f"{message.camera}_{index}"
