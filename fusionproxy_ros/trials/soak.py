"""`fusionproxy soak`: faults, alone and in random pairs, against the real node over real DDS; the promises judged."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rclpy
from tqdm import tqdm

from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.ros.spinner import Spinner
from fusionproxy_ros.trials.faults import CLOCK_FAULTS, FAULTS, KILL_FAULTS
from fusionproxy_ros.trials.harness import extrinsic_parameters, prepare_environment
from fusionproxy_ros.trials.judge import Limits, RunLog, judge_slots, rss_growth
from fusionproxy_ros.trials.night_road import default_calibration
from fusionproxy_ros.trials.soak_plan import NO_FAULT, Slot, messages_of, slots_of, slots_of_pairs
from fusionproxy_ros.trials.soak_processes import SoakProcesses, read_log, save_footage

MAX_RSS_GROWTH = 0.01


def run_slots(
    slots: Sequence[Slot],
    size_px: tuple[int, int],
    parameters: Mapping[str, object],
    folder: Path,
    limits: Limits,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One run of one node: the judge's rows, and what is to be said of the run as a whole.

    size_px: (width, height) of RGB; thermal has half of it. parameters: of the node, beyond its calibration.
    folder: for the footage, the node's output and what the cameras sent.
    """
    sizes_px = size_px, (size_px[0] // 2, size_px[1] // 2)
    calibration = default_calibration(*sizes_px)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.log"):
        path.unlink()
    messages = messages_of(slots, bool(parameters.get("use_sim_time")))
    save_footage(calibration, 1 + max(message.picture for message in messages), folder)
    rclpy.init()
    processes = SoakProcesses(messages, sizes_px, {**extrinsic_parameters(calibration), **parameters}, folder)
    try:
        with Spinner(processes.node):
            problems = _play_faults(slots, processes, folder.name)
    finally:
        alive = processes.end()
        rclpy.try_shutdown()
    log = read_log(messages, processes.epoch_ns, folder, problems)
    return judge_slots(slots, log, limits), {"alive": alive, **_of_the_run(log, processes, folder)}


def _play_faults(slots: Sequence[Slot], processes: SoakProcesses, name: str) -> dict[int, list[str]]:
    """Open the acts of each slot's faults while it lasts; slot -> what they found wrong."""
    problems = {}
    processes.begin()
    for index, slot in enumerate(tqdm(slots, desc=name, unit="fault")):
        processes.sleep_until(slot.start_ns)
        with ExitStack() as acts:
            for fault in slot.faults:
                acts.enter_context(fault.act(processes))
            processes.sleep_until(slot.end_ns)
        processes.sleep_until(slot.stop_ns)
        problems[index], processes.problems = processes.problems, []
    processes.rgb.join(10.0)
    if processes.rgb.is_alive():
        cause = "Fast DDS issue 6485, most likely: see docs/performance.md, 'Starting again after a crash'"
        problems[index].append(f"the RGB camera's process hangs ({cause})")
    time.sleep(1.0)  # the last answers
    return problems


def _of_the_run(log: RunLog, processes: SoakProcesses, folder: Path) -> dict[str, Any]:
    known = {one.frame_id for one in log.rgb}
    rss, shared = processes.rss, processes.shared
    return {
        "answers_to_nothing": sum(seen.frame_id not in known for seen in log.images + log.statuses),
        "tracebacks": (folder / "node.log").read_text(errors="replace").count("Traceback"),
        "rss_mb": [round(size / 1e6, 1) for size in rss],
        "rss_growth": rss_growth(rss),
        "shared_mb": [round(size / 1e6, 1) for size in shared],
        "own_growth": rss_growth([whole - part for whole, part in zip(rss, shared, strict=False)]),
    }


def run_soak(minutes: float, seed: int, out: Path, size_px: tuple[int, int] = (640, 480)) -> dict[str, Any]:
    """The whole soak; the report that it also wrote to `out`/report.json, whose `broken` names what failed.

    Every fault runs alone once, which takes about 6 minutes; random pairs fill the rest of `minutes`.
    """
    prepare_environment()
    # Whatever the user's shell says: no robot is to get these frames.
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    plan = {"kill": slots_of([(fault,) for fault in (NO_FAULT, *KILL_FAULTS)])}
    plan["clock"] = slots_of([(fault,) for fault in (NO_FAULT, *CLOCK_FAULTS)])
    spent_ns = sum(slots[-1].stop_ns for slots in plan.values())
    plan["faults"] = slots_of_pairs(FAULTS, minutes - spent_ns / NS_PER_S / 60, seed)
    rows: list[dict[str, Any]] = []
    runs: dict[str, dict[str, Any]] = {}
    for name, slots in plan.items():
        parameters = {"use_sim_time": True} if name == "clock" else {}
        new, runs[name] = run_slots(slots, size_px, parameters, out / name, Limits())
        rows += new
    report = {
        "minutes": minutes,
        "seed": seed,
        "size_px": size_px,
        "broken": _broken_promises(rows, runs, out),
        "rss_growth": runs["faults"]["rss_growth"],  # of one process, which no fault kills
        "tracebacks": sum(one["tracebacks"] for one in runs.values()),
        "faults": rows,
        "runs": runs,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _broken_promises(rows: list[dict[str, Any]], runs: dict[str, dict[str, Any]], out: Path) -> list[str]:
    """In words: of each row, of each run, and of the memory of the longest run."""
    broken = [f"{row['fault']}: {what}" for row in rows for what in row["broken"]]
    for name, run in runs.items():
        if not run["alive"]:
            broken.append(f"the node of run {name} ended by itself: see {out}/{name}/node.log")
        if number := run["answers_to_nothing"]:
            broken.append(f"run {name}: {number} answers to frames that nobody sent")
        if number := run["tracebacks"]:
            broken.append(f"run {name}: {number} tracebacks in {out}/{name}/node.log")
    growth = runs["faults"]["rss_growth"]
    if growth is None or growth > MAX_RSS_GROWTH:
        by = "an unknown share: the run is too short" if growth is None else f"{growth:.1%}"
        broken.append(f"resident memory grew by {by}, {MAX_RSS_GROWTH:.0%} allowed")
    return broken


def print_soak_report(report: dict[str, Any]) -> None:
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
