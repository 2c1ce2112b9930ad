"""`fusionproxy soak`: faults, alone and in random pairs, against the real node over real DDS; the promises judged.

Two processes are the cameras; they play one schedule of shots that is known before the clock starts. A third is the
downstream: this one, which hurts the node and starts processes, would take its own pauses for gaps of the node's.
Every frame_id is unique, so that a frame is found again whatever a fault does to its stamp.
"""

import json
import multiprocessing
import os
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import rclpy
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tqdm import tqdm

from fusionproxy_ros import demo
from fusionproxy_ros.faults import CLOCK_FAULTS, FAULTS, KILL_FAULTS, NONE, PERIOD_NS, Fault, Shot
from fusionproxy_ros.frames import MODES, NS_PER_S, Calibration
from fusionproxy_ros.memory import keep_freed_memory
from fusionproxy_ros.messages import fill_image, stamp_to_ns
from fusionproxy_ros.msg import FusionStatus
from fusionproxy_ros.scene import NightRoad, default_calibration

FAULT_S, TAIL_S = 3.0, 2.5  # how long a fault lasts, and the clean time that follows
FOOTAGE = 120  # pictures of each camera, rendered once and played in a loop
THERMAL_PHASE_NS = 7_000_000  # free-running cameras do not expose together
CLOCK_PERIOD_NS = NS_PER_S // 50
HELD_UP_NS = NS_PER_S // 5  # a driver that was held up for longer goes on with the present
SPAWN = multiprocessing.get_context("spawn")  # a fork would share the middleware's threads and locks

STEADY = 5  # frames fused in a row are a recovery
MAX_RSS_GROWTH = 0.01
IMAGELESS = (FusionStatus.REFUSED, FusionStatus.DROPPED)


# --- the schedule ---------------------------------------------------------------------------------------------


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


def slots_of(groups: list[tuple[Fault, ...]], fault_s: float = FAULT_S, tail_s: float = TAIL_S) -> list[Slot]:
    """One slot for each group of faults, one after the other."""
    slots, start_ns = [], 0
    for faults in groups:
        end_ns = start_ns + round(fault_s * NS_PER_S)
        stop_ns = end_ns + round(max(tail_s, *(fault.tail_s for fault in faults)) * NS_PER_S)
        slots.append(Slot(faults, start_ns, end_ns, stop_ns))
        start_ns = stop_ns
    return slots


def fill(minutes: float, seed: int) -> list[Slot]:
    """No fault, each fault alone, then random pairs until `minutes` are full."""
    rng, groups = random.Random(seed), [(NONE,), *((fault,) for fault in FAULTS)]
    while slots_of(groups)[-1].stop_ns < minutes * 60 * NS_PER_S:
        groups.append(tuple(rng.sample(FAULTS, 2)))
    return slots_of(groups)


def shots_of(slots: list[Slot], with_clock: bool = False) -> list[Shot]:
    """What the cameras publish in all slots, in order of time."""
    streams = [("rgb", 0, PERIOD_NS), ("thermal", THERMAL_PHASE_NS, PERIOD_NS)]
    streams += [("clock", 0, CLOCK_PERIOD_NS)] if with_clock else []
    shots = []
    for index, slot in enumerate(slots):
        during = []
        for camera, phase_ns, period_ns in streams:
            first, last = (-(-(ns - phase_ns) // period_ns) for ns in (slot.start_ns, slot.stop_ns))
            for i in range(first, last):
                ns = phase_ns + i * period_ns
                shot = Shot(ns, ns, camera, index, picture=i % FOOTAGE, noise=i)
                (during if ns < slot.end_ns else shots).append(shot)
        for fault in slot.faults:
            during = fault.edit(during)
        shots += [replace(shot, faulty=True) for shot in during]
    return sorted(shots, key=lambda shot: shot.at_ns)


# --- the cameras ----------------------------------------------------------------------------------------------


def header_of(shot: Shot, index: int, epoch_ns: int) -> Header:
    """epoch_ns: what the run's start is on the clock of stamps."""
    header = Header(frame_id=f"{shot.camera}_{index}")
    if shot.stamp_ns is not None:
        header.stamp.sec, header.stamp.nanosec = divmod(epoch_ns + shot.stamp_ns, NS_PER_S)
    return header


def _play(cameras: tuple[str, ...], shots: list[Shot], sizes_px: tuple, folder: Path, clock) -> None:
    """A camera driver's process: publish the shots of `cameras` when they are due, and note when each went out.

    clock: shared (begin_ns, epoch_ns): monotonic time and stamp of the run's start, 0 until it is known.
    """
    keep_freed_memory()
    rclpy.init()
    node = rclpy.create_node(f"soak_{cameras[0]}")
    calibration, qos = default_calibration(*sizes_px), QoSProfile(depth=30)  # no loss on this side
    footage = {name: np.load(folder / f"{name}.npy") for name in cameras if name != "clock"}
    images = {name: node.create_publisher(Image, f"{name}/image_raw", qos) for name in footage}
    infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", qos) for name in footage}
    ticks = node.create_publisher(Clock, "/clock", qos) if "clock" in cameras else None
    demo.wait_until(lambda: all(p.get_subscription_count() for p in images.values()), 60, "node subscribing")
    time.sleep(0.5)  # the last endpoints match
    demo.wait_until(lambda: clock[0], 60, "the run's start")
    begin_ns, epoch_ns = clock
    start_ns = time.monotonic_ns()  # later than begin_ns where this camera was killed before
    with (folder / f"{cameras[0]}.log").open("a", buffering=1) as log:  # by lines: this process may be killed
        for index, shot in enumerate(shots):
            due_ns = begin_ns + shot.at_ns
            if shot.camera not in cameras or due_ns < max(start_ns, time.monotonic_ns() - HELD_UP_NS):
                continue
            header = header_of(shot, index, epoch_ns)
            if shot.camera != "clock":
                image, info = _messages(shot, header, footage, calibration)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
            log.write(f"{index} {time.monotonic_ns() - begin_ns}\n")
            if shot.camera == "clock":
                ticks.publish(Clock(clock=header.stamp))
                continue
            if shot.has_info:
                infos[shot.camera].publish(info)
            images[shot.camera].publish(image)
    time.sleep(1.0)  # reliable messages may still be on their way


def _messages(
    shot: Shot, header: Header, footage: dict, calibration: Calibration
) -> tuple[Image, CameraInfo]:
    pixels, encoding = footage[shot.camera][shot.picture], "rgb8"
    if shot.camera == "thermal":  # no sensor gives the same bits twice
        noise = np.random.default_rng(shot.noise).integers(0, 5, pixels.shape, np.uint16)
        pixels, encoding = pixels + noise, "mono16"
    image = fill_image(Image(), header, pixels, encoding)
    info = demo.camera_info(getattr(calibration, shot.camera), header)
    for edit in shot.edits:
        edit(image, info)
    return image, info


def _render(calibration: Calibration, folder: Path) -> None:
    """FOOTAGE pictures of each camera, as arrays in files."""
    scene = NightRoad(calibration)
    for name in ("rgb", "thermal"):
        bar = tqdm(range(FOOTAGE), desc=f"rendering {name}", unit="frame")
        np.save(folder / f"{name}.npy", [getattr(scene, name)(i * PERIOD_NS / NS_PER_S) for i in bar])


# --- the downstream -------------------------------------------------------------------------------------------


def _listen(folder: Path, clock) -> None:
    """A downstream's process: note every fused image and status, a line of JSON each. clock: as of `_play`."""
    keep_freed_memory()
    rclpy.init()
    node, qos = rclpy.create_node("soak_downstream"), QoSProfile(depth=100)
    with (folder / "downstream.log").open("w", buffering=1) as log:  # by lines: this process will be killed

        def note(output: str, msg, *rest) -> None:
            ns = time.monotonic_ns() - clock[0]
            seen = ns, msg.header.frame_id, stamp_to_ns(msg.header.stamp), *rest
            log.write(json.dumps([output, *seen]) + "\n")

        node.create_subscription(Image, "fused/image", lambda m: note("image", m), qos)
        node.create_subscription(
            FusionStatus, "fused/status", lambda m: note("status", m, m.mode, m.reason), qos
        )
        rclpy.spin(node)


# --- the judge ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One published image. due_ns, sent_ns: ns after the start of the run. usable, faulty: as of its Shot."""

    frame_id: str
    stamp_ns: int
    slot: int
    due_ns: int
    sent_ns: int
    usable: bool = True
    faulty: bool = False


@dataclass(frozen=True)
class Seen:
    """One fused image, or one status, as it came downstream, ns after the start of the run."""

    ns: int
    frame_id: str
    stamp_ns: int
    mode: int = -1
    reason: str = ""


@dataclass(frozen=True)
class Log:
    """What went in and came out during one run, in order. problems: slot -> what acts found wrong."""

    rgb: list[Sent]
    thermal: list[Sent]
    images: list[Seen]
    statuses: list[Seen]
    problems: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """gap_ms: between two images, where the cameras are regular. recovery: frames from good thermal to FUSED."""

    gap_ms: float = 100.0
    recovery: int = 3


def judge(slots: list[Slot], log: Log, limits: Limits) -> list[dict]:
    """One row for each slot: the numbers, and `broken`: every promise that was, in words."""
    statuses, images = defaultdict(list), defaultdict(list)
    for by_frame, everything in (statuses, log.statuses), (images, log.images):
        for seen in everything:
            by_frame[seen.frame_id].append(seen)
    place = {sent.frame_id: i for i, sent in enumerate(log.rgb)}
    shown = [(log.rgb[place[seen.frame_id]], seen) for seen in log.images if seen.frame_id in place]
    usable = [sent for sent in log.rgb if sent.usable]
    gaps = {
        "worst_gap_ms": _worst_gaps_ms((sent.slot, seen.ns) for sent, seen in shown),
        "worst_sent_gap_ms": _worst_gaps_ms((sent.slot, sent.sent_ns) for sent in usable),
        "worst_due_gap_ms": _worst_gaps_ms((sent.slot, sent.due_ns) for sent in usable),
    }
    overtaken = Counter(b.slot for (a, _), (b, _) in pairwise(shown) if b.sent_ns < a.sent_ns)
    rows = []
    for index, slot in enumerate(slots):
        frames = [sent for sent in log.rgb if sent.slot == index]
        row = {"fault": slot.name, "frames": len(frames), **_answers(frames, statuses, images)}
        row |= {"out_of_order": overtaken[index], **{name: gap[index] for name, gap in gaps.items()}}
        faulty_ns = [s.sent_ns for s in log.rgb + log.thermal if s.slot == index and s.faulty]
        over_ns = max([slot.end_ns, *faulty_ns])  # late frames prolong a fault
        good_ns = [t.sent_ns for t in log.thermal if t.slot == index and t.sent_ns >= over_ns]
        tail = [sent.frame_id for sent in frames if good_ns and sent.sent_ns >= min(good_ns)]
        row["recovery_frames"] = _recovery([seen.mode for name in tail for seen in statuses[name]])
        row["broken"] = _broken(slot, row, limits) + log.problems.get(index, [])
        rows.append(row)
    return rows


def _worst_gaps_ms(events: Iterable[tuple[int, int]]) -> dict[int, float]:
    """Slot -> longest time in ms between one of its events and the one before. events: (slot, ns), in order."""
    gaps = defaultdict(float)
    for (_, before_ns), (slot, ns) in pairwise(events):
        gaps[slot] = max(gaps[slot], round((ns - before_ns) / 1e6, 1))
    return gaps


def _answers(frames: list[Sent], statuses: dict, images: dict) -> dict:
    """Frame by frame: was it answered exactly once, with its own header and a reason for what is missing?"""
    names = "accepted answered_once unanswered holes doubled wrong_header refused_good unexplained"
    row, modes, reasons = dict.fromkeys(names.split(), 0), Counter(), Counter()
    was_unanswered = False
    for sent in frames:
        told, shown = statuses[sent.frame_id], images[sent.frame_id]
        modes.update(MODES[seen.mode] for seen in told)
        reasons.update(seen.reason for seen in told if seen.reason)
        wanted = 0 if told and told[0].mode in IMAGELESS else 1
        unanswered = not told or len(shown) < wanted
        row["holes"] += unanswered and not was_unanswered
        was_unanswered = unanswered
        row["unanswered"] += unanswered
        row["accepted"] += wanted
        row["answered_once"] += len(told) == len(shown) == wanted == 1
        row["doubled"] += len(told) > 1 or len(shown) > wanted
        row["wrong_header"] += any(seen.stamp_ns != sent.stamp_ns for seen in told + shown)
        row["refused_good"] += sent.usable and any(seen.mode == FusionStatus.REFUSED for seen in told)
        row["unexplained"] += any(seen.mode != FusionStatus.FUSED and not seen.reason for seen in told)
    return row | {"modes": dict(modes), "reasons": dict(reasons)}


def _recovery(modes: list[int]) -> int | None:
    """How many frames come before the first STEADY fused ones in a row; None where there are none."""
    fused = [mode == FusionStatus.FUSED for mode in modes]
    return next((i for i in range(len(fused) - STEADY + 1) if all(fused[i : i + STEADY])), None)


def _broken(slot: Slot, row: dict, limits: Limits) -> list[str]:
    killed = {fault.kills for fault in slot.faults} - {""}
    counts = {
        "frames not answered": 0 if "node" in killed and row["holes"] == 1 else row["unanswered"],
        "frames answered more than once": row["doubled"],
        "frames answered with another stamp": row["wrong_header"],
        "images out of order": row["out_of_order"],
        "good frames refused": row["refused_good"],
        "frames neither fused nor with a reason": row["unexplained"],
    }
    broken = [f"{number} {what}" for what, number in counts.items() if number]
    # Where the schedule has a gap between usable frames itself, outputs may come as much later as elsewhere.
    allowed_ms = limits.gap_ms + max(0.0, row["worst_due_gap_ms"] - round(PERIOD_NS / 1e6, 1))
    if row["worst_gap_ms"] > allowed_ms and not killed:
        broken.append(f"no output for {row['worst_gap_ms']} ms, {allowed_ms:.0f} ms allowed")
    if row["recovery_frames"] is None:
        broken.append("not fused again after the fault")
    elif row["recovery_frames"] > limits.recovery:
        broken.append(f"{row['recovery_frames']} frames to recover, {limits.recovery} allowed")
    if len(slot.faults) == 1 and slot.faults[0].told and not row["reasons"]:  # two may cancel each other
        broken.append("no status says that anything is wrong")
    return broken


def rss_growth(rss: list[int]) -> float | None:
    """Median of the last quarter over that of the second, less one; None for fewer than 8 samples."""
    n = len(rss)
    return median(rss[3 * n // 4 :]) / median(rss[n // 4 : n // 2]) - 1 if n >= 8 else None


# --- the run --------------------------------------------------------------------------------------------------


class Bench:
    """The node under test, the cameras and the downstream as processes; what the acts of faults take hold of.

    fusion, thermal: processes. node: of this process. parameters: client of those of the node under test.
    problems: what acts found wrong, since the last look.
    """

    def __init__(self, shots: list[Shot], sizes_px: tuple, parameters: dict, folder: Path):
        self._shots, self._sizes_px, self._parameters, self._folder = shots, sizes_px, parameters, folder
        self._clock, self._output = SPAWN.Array("q", 2), (folder / "node.log").open("w")
        self.problems: list[str] = []
        self.rss: list[int] = []  # bytes, once a second
        self.shared: list[int] = []  # of them, in the shared segments of the middleware, peers' among them
        self.node = rclpy.create_node("soak")
        # One for all: each is six more endpoints, of which the node under test keeps account.
        self.parameters = AsyncParameterClient(self.node, "fusion")
        self._downstream = self._start(_listen, folder, self._clock)
        self.start_fusion()
        self.rgb = self._start_camera("rgb", *(["clock"] if parameters.get("use_sim_time") else []))
        self.start_thermal()

    def start_fusion(self) -> None:
        self.fusion = demo.start_node(self._parameters, output=self._output)

    def start_thermal(self) -> None:
        self.thermal = self._start_camera("thermal")

    def _start_camera(self, *names: str):
        return self._start(_play, names, self._shots, self._sizes_px, self._folder, self._clock)

    def _start(self, work: Callable, *arguments):
        process = SPAWN.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def begin(self) -> None:
        """Start the run's clock as soon as everybody has found each other."""
        topics = "rgb/image_raw", "thermal/image_raw"
        for what, count in (
            ("the cameras starting", self.node.count_publishers),
            ("the node subscribing", self.node.count_subscribers),
        ):
            demo.wait_until(lambda count=count: all(map(count, topics)), 60, what)
        time.sleep(1.5)  # the last endpoints match
        self.begin_ns, self.epoch_ns = time.monotonic_ns() + NS_PER_S // 5, time.time_ns()
        self._clock[1], self._clock[0] = self.epoch_ns, self.begin_ns
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def sleep_until(self, ns: int) -> None:
        time.sleep(max(0, self.begin_ns + ns - time.monotonic_ns()) / NS_PER_S)

    def end(self) -> bool:
        """End every process; whether the node was still alive."""
        alive = self.fusion.poll() is None
        for process in (self.rgb, self.thermal, self._downstream):
            process.kill()
        demo.stop_process(self.fusion)
        self._output.close()
        self.node.destroy_node()
        return alive

    def _watch_memory(self) -> None:
        while self.fusion.poll() is None:
            kib = dict(
                re.findall(
                    r"(VmRSS|RssShmem):\s+(\d+) kB", Path(f"/proc/{self.fusion.pid}/status").read_text()
                )
            )
            if len(kib) == 2:  # else it is ending
                self.rss.append(int(kib["VmRSS"]) * 1024)
                self.shared.append(int(kib["RssShmem"]) * 1024)
            time.sleep(1.0)


def soak(
    slots: list[Slot], size_px: tuple, parameters: dict, folder: Path, limits: Limits
) -> tuple[list[dict], dict]:
    """One run of one node: the judge's rows, and what is to be said of the run as a whole.

    size_px: (width, height) of RGB; thermal has half of it. parameters: of the node, beyond its calibration.
    folder: for the footage, the node's output and what the cameras sent.
    """
    sizes_px = size_px, (size_px[0] // 2, size_px[1] // 2)
    calibration = default_calibration(*sizes_px)
    folder.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        log.unlink()
    _render(calibration, folder)
    shots = shots_of(slots, bool(parameters.get("use_sim_time")))
    problems, alive = {}, False
    rclpy.init()
    bench = Bench(shots, sizes_px, demo.extrinsic_parameters(calibration) | parameters, folder)
    try:
        with demo.Spinner(bench.node):
            bench.begin()
            for index, slot in enumerate(tqdm(slots, desc=folder.name, unit="fault")):
                bench.sleep_until(slot.start_ns)
                with ExitStack() as acts:
                    for fault in slot.faults:
                        acts.enter_context(fault.act(bench))
                    bench.sleep_until(slot.end_ns)
                bench.sleep_until(slot.stop_ns)
                problems[index], bench.problems = bench.problems, []
            bench.rgb.join(10.0)
            if bench.rgb.is_alive():
                cause = "Fast DDS issue 6485, most likely: see docs/performance.md, 'Starting again after a crash'"
                problems[index].append(f"the RGB camera's process hangs ({cause})")
            time.sleep(1.0)  # the last answers
    finally:
        alive = bench.end()
        rclpy.try_shutdown()
    sent = {name: _sent(name, shots, bench.epoch_ns, folder) for name in ("rgb", "thermal")}
    log = Log(sent["rgb"], sent["thermal"], *_seen(folder), problems)
    known = {one.frame_id for one in log.rgb}
    return judge(slots, log, limits), {
        "alive": alive,
        "answers_to_nothing": sum(seen.frame_id not in known for seen in log.images + log.statuses),
        "tracebacks": (folder / "node.log").read_text(errors="replace").count("Traceback"),
        "rss_mb": [round(rss / 1e6, 1) for rss in bench.rss],
        "rss_growth": rss_growth(bench.rss),
        "shared_mb": [round(shared / 1e6, 1) for shared in bench.shared],
        "own_growth": rss_growth(
            [rss - shared for rss, shared in zip(bench.rss, bench.shared, strict=False)]
        ),
    }


def _sent(camera: str, shots: list[Shot], epoch_ns: int, folder: Path) -> list[Sent]:
    """What a camera noted that it published."""
    sent = []
    for line in (folder / f"{camera}.log").read_text().splitlines():
        index, ns = map(int, line.split())
        shot = shots[index]
        if shot.camera == camera:
            header = header_of(shot, index, epoch_ns)
            stamp_ns = stamp_to_ns(header.stamp)
            sent.append(Sent(header.frame_id, stamp_ns, shot.slot, shot.at_ns, ns, shot.usable, shot.faulty))
    return sent


def _seen(folder: Path) -> tuple[list[Seen], list[Seen]]:
    """Images and statuses that the downstream noted."""
    of = {"image": [], "status": []}
    for line in (folder / "downstream.log").read_text().splitlines():
        output, *seen = json.loads(line)
        of[output].append(Seen(*seen))
    return of["image"], of["status"]


def run(minutes: float, seed: int, out: Path, size_px: tuple[int, int] = (640, 480)) -> dict:
    """The whole soak; the report that it also wrote to `out`/report.json, whose `broken` names what failed.

    Every fault runs alone once, which takes about 6 minutes; random pairs fill the rest of `minutes`.
    """
    demo.prepare_environment()
    # Whatever the user's shell says: no robot is to get these frames.
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    plan = {"kill": slots_of([(fault,) for fault in (NONE, *KILL_FAULTS)])}
    plan["clock"] = slots_of([(fault,) for fault in (NONE, *CLOCK_FAULTS)])
    spent_ns = sum(slots[-1].stop_ns for slots in plan.values())
    plan["faults"] = fill(minutes - spent_ns / NS_PER_S / 60, seed)
    rows, runs, broken = [], {}, []
    for name, slots in plan.items():
        parameters = {"use_sim_time": True} if name == "clock" else {}
        new, runs[name] = soak(slots, size_px, parameters, out / name, Limits())
        rows += new
        broken += [f"{row['fault']}: {what}" for row in new for what in row["broken"]]
        if not runs[name]["alive"]:
            broken.append(f"the node of run {name} ended by itself: see {out}/{name}/node.log")
        if number := runs[name]["answers_to_nothing"]:
            broken.append(f"run {name}: {number} answers to frames that nobody sent")
        if number := runs[name]["tracebacks"]:
            broken.append(f"run {name}: {number} tracebacks in {out}/{name}/node.log")
    growth = runs["faults"]["rss_growth"]  # of one process, which no fault kills
    if growth is None or growth > MAX_RSS_GROWTH:
        by = "an unknown share: the run is too short" if growth is None else f"{growth:.1%}"
        broken.append(f"resident memory grew by {by}, {MAX_RSS_GROWTH:.0%} allowed")
    report = {"minutes": minutes, "seed": seed, "size_px": size_px, "broken": broken, "rss_growth": growth}
    report |= {"tracebacks": sum(one["tracebacks"] for one in runs.values()), "faults": rows, "runs": runs}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def print_table(report: dict) -> None:
    """A line for each fault or pair of faults, then every promise that was broken."""
    columns = "frames", "answered_once", "worst_gap_ms", "worst_sent_gap_ms", "recovery_frames"
    width = max(len(row["fault"]) for row in report["faults"])
    print("  ".join(["fault".ljust(width), *columns, "reasons"]))
    for row in report["faults"]:
        numbers = [str(row[name]).rjust(len(name)) for name in columns]
        reasons = "; ".join(f"{n} {text:.50}" for text, n in Counter(row["reasons"]).most_common(2))
        print("  ".join([row["fault"].ljust(width), *numbers, reasons]))
    growths = report["rss_growth"], report["runs"]["faults"]["own_growth"]
    growth, own = ("unknown" if one is None else f"{one:+.2%}" for one in growths)
    print(
        f"\ngrowth of resident memory {growth} ({own} without shared segments), {report['tracebacks']} tracebacks"
    )
    for line in report["broken"]:
        print(f"broken: {line}")
