"""Were the promises kept? Of a demo, and of each fault of a soak; no ROS in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionproxy_ros.core.frames import MODES, OUTPUT_MODES, Mode
from fusionproxy_ros.core.image_messages import stamp_to_ns
from fusionproxy_ros.trials.soak_plan import PERIOD_NS, Slot

if TYPE_CHECKING:
    from std_msgs.msg import Header

    from fusionproxy_ros.trials.harness import Downstream

STEADY_FRAMES = 5  # fused in a row are a recovery
STATUS_STAGES = ("sync_wait", "queue", "register", "normalise", "student", "publish")


# --- the demo -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlayedFrame:
    """One RGB frame that the demo published."""

    stamp_ns: int
    header: Header
    sent_ns: int


def judge_demo(frames: Sequence[PlayedFrame], down: Downstream, thermal_back_ns: int) -> dict[str, Any]:
    """The promises, counted. thermal_back_ns: stamp of the first thermal frame after the outage."""
    modes = down.modes
    after = [modes.get(frame.stamp_ns) for frame in frames if frame.stamp_ns >= thermal_back_ns]
    return {
        "rgb_frames": len(frames),
        **_images_of(frames, down),
        "modes": {mode.name: sum(found == mode for found in modes.values()) for mode in OUTPUT_MODES},
        "dropped": sum(found == Mode.DROPPED for found in modes.values()),
        "reasons": dict(Counter(status.reason for status in down.statuses if status.reason)),
        "recovery_frames": next((i for i, mode in enumerate(after) if mode == Mode.FUSED), len(after)),
        **_times_of(frames, down),
    }


def _images_of(frames: Sequence[PlayedFrame], down: Downstream) -> dict[str, int]:
    """One image for each frame, with its header, in order?"""
    headers = {frame.stamp_ns: frame.header for frame in frames}
    stamped = [(stamp_to_ns(msg.header.stamp), msg) for _, msg in down.images]
    answers = Counter(stamp_ns for stamp_ns, _ in stamped)
    return {
        "answered_once": sum(answers[frame.stamp_ns] == 1 for frame in frames),
        "header_mismatches": sum(headers.get(stamp_ns) != msg.header for stamp_ns, msg in stamped),
        "out_of_order": sum(later <= earlier for (earlier, _), (later, _) in pairwise(stamped)),
    }


def _times_of(frames: Sequence[PlayedFrame], down: Downstream) -> dict[str, Any]:
    """How long the node took by its own statuses, and how long this process waited."""
    sent_ns = {frame.stamp_ns: frame.sent_ns for frame in frames}
    arrived = [(at_ns, stamp_to_ns(msg.header.stamp)) for at_ns, msg in down.images]
    fused = [status for status in down.statuses if status.mode == Mode.FUSED]
    medians_ms = {
        stage: _percentiles([1e3 * getattr(status, f"{stage}_s") for status in down.statuses])["p50"]
        for stage in STATUS_STAGES
    }
    end_to_end_ms = [(at_ns - sent_ns[stamp]) / 1e6 for at_ns, stamp in arrived if stamp in sent_ns]
    return {
        "worst_gap_ms": round(
            max((later - earlier) / 1e6 for (earlier, _), (later, _) in pairwise(arrived)), 1
        ),
        "latency_ms": _percentiles([1e3 * status.total_s for status in down.statuses]),
        "latency_fused_ms": _percentiles([1e3 * status.total_s for status in fused]),
        "stage_median_ms": medians_ms,
        "end_to_end_ms": _percentiles(end_to_end_ms),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    values = values or [float("nan")]
    return {name: round(float(np.percentile(values, q)), 2) for name, q in (("p50", 50), ("p99", 99))}


# --- the soak -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """One published image. due_ns, sent_ns: ns after the start of the run. usable, faulty: as of PlannedMessage."""

    frame_id: str
    stamp_ns: int
    slot: int
    due_ns: int
    sent_ns: int
    usable: bool = True
    faulty: bool = False


@dataclass(frozen=True)
class Received:
    """One fused image, or one status, as it came downstream, ns after the start of the run."""

    ns: int
    frame_id: str
    stamp_ns: int
    mode: int = -1
    reason: str = ""


@dataclass(frozen=True)
class RunLog:
    """What went in and came out during one run, in order. problems: slot -> what acts of faults found wrong."""

    rgb: list[Sent]
    thermal: list[Sent]
    images: list[Received]
    statuses: list[Received]
    problems: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """gap_ms: between two images, where the cameras are regular. recovery: frames from good thermal to FUSED."""

    gap_ms: float = 100.0
    recovery: int = 3


def judge_slots(slots: Sequence[Slot], log: RunLog, limits: Limits) -> list[dict[str, Any]]:
    """One row for each slot: the numbers, and `broken`: every promise that was, in words."""
    statuses, images = _by_frame(log.statuses), _by_frame(log.images)
    sent = {one.frame_id: one for one in log.rgb}
    shown = [(sent[seen.frame_id], seen) for seen in log.images if seen.frame_id in sent]
    usable = [one for one in log.rgb if one.usable]
    gaps = {
        "worst_gap_ms": _worst_gaps_ms((one.slot, seen.ns) for one, seen in shown),
        "worst_sent_gap_ms": _worst_gaps_ms((one.slot, one.sent_ns) for one in usable),
        "worst_due_gap_ms": _worst_gaps_ms((one.slot, one.due_ns) for one in usable),
    }
    overtaken = Counter(b.slot for (a, _), (b, _) in pairwise(shown) if b.sent_ns < a.sent_ns)
    rows = []
    for index, slot in enumerate(slots):
        frames = [one for one in log.rgb if one.slot == index]
        row = {"fault": slot.name, "frames": len(frames), **_answers(frames, statuses, images)}
        row |= {"out_of_order": overtaken[index], **{name: gap[index] for name, gap in gaps.items()}}
        after = _frames_of_good_thermal(index, slot, log)
        row["recovery_frames"] = _recovery([seen.mode for name in after for seen in statuses[name]])
        row["broken"] = _broken(slot, row, limits) + log.problems.get(index, [])
        rows.append(row)
    return rows


def _by_frame(everything: Iterable[Received]) -> defaultdict[str, list[Received]]:
    found = defaultdict(list)
    for seen in everything:
        found[seen.frame_id].append(seen)
    return found


def _worst_gaps_ms(events: Iterable[tuple[int, int]]) -> defaultdict[int, float]:
    """Slot -> longest time in ms between one of its events and the one before. events: (slot, ns), in order."""
    gaps: defaultdict[int, float] = defaultdict(float)
    for (_, before_ns), (slot, ns) in pairwise(events):
        gaps[slot] = max(gaps[slot], round((ns - before_ns) / 1e6, 1))
    return gaps


def _answers(
    frames: Sequence[Sent], statuses: dict[str, list[Received]], images: dict[str, list[Received]]
) -> dict[str, Any]:
    """Frame by frame: was it answered exactly once, with its own header and a reason for what is missing?"""
    names = "accepted answered_once unanswered holes doubled wrong_header refused_good unexplained"
    counts, modes, reasons = Counter(dict.fromkeys(names.split(), 0)), Counter[str](), Counter[str]()
    was_unanswered = False
    for sent in frames:
        modes.update(MODES[status.mode] for status in statuses[sent.frame_id])
        reasons.update(status.reason for status in statuses[sent.frame_id] if status.reason)
        answer = _answer(sent, statuses[sent.frame_id], images[sent.frame_id])
        counts.update(answer, holes=answer["unanswered"] and not was_unanswered)
        was_unanswered = answer["unanswered"]
    return {**counts, "modes": dict(modes), "reasons": dict(reasons)}


def _answer(sent: Sent, statuses: list[Received], images: list[Received]) -> dict[str, bool]:
    """What holds of the answer to one frame."""
    refused_or_dropped = bool(statuses) and statuses[0].mode in (
        Mode.REFUSED,
        Mode.DROPPED,
    )  # which have no image
    wanted = 0 if refused_or_dropped else 1
    return {
        "accepted": wanted == 1,
        "answered_once": len(statuses) == len(images) == wanted == 1,
        "unanswered": not statuses or len(images) < wanted,
        "doubled": len(statuses) > 1 or len(images) > wanted,
        "wrong_header": any(seen.stamp_ns != sent.stamp_ns for seen in statuses + images),
        "refused_good": sent.usable and any(status.mode == Mode.REFUSED for status in statuses),
        "unexplained": any(status.mode != Mode.FUSED and not status.reason for status in statuses),
    }


def _frames_of_good_thermal(index: int, slot: Slot, log: RunLog) -> list[str]:
    """frame_id of the slot's RGB frames from the first thermal image on that comes after the fault."""
    of_fault_ns = [one.sent_ns for one in log.rgb + log.thermal if one.slot == index and one.faulty]
    over_ns = max([slot.end_ns, *of_fault_ns])  # late frames prolong a fault
    good_ns = [one.sent_ns for one in log.thermal if one.slot == index and one.sent_ns >= over_ns]
    return [one.frame_id for one in log.rgb if one.slot == index and good_ns and one.sent_ns >= min(good_ns)]


def _recovery(modes: Sequence[int]) -> int | None:
    """How many frames come before the first STEADY_FRAMES fused ones in a row; None where there are none."""
    fused = [mode == Mode.FUSED for mode in modes]
    starts = range(len(fused) - STEADY_FRAMES + 1)
    return next((i for i in starts if all(fused[i : i + STEADY_FRAMES])), None)


def _broken(slot: Slot, row: dict[str, Any], limits: Limits) -> list[str]:
    """Every promise that the slot's row breaks, in words."""
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
    # Two faults may cancel each other.
    if len(slot.faults) == 1 and slot.faults[0].must_be_reported and not row["reasons"]:
        broken.append("no status says that anything is wrong")
    return broken


def rss_growth(rss: Sequence[int]) -> float | None:
    """Median of the last quarter over that of the second, less one; None for fewer than 8 samples."""
    n = len(rss)
    return median(rss[3 * n // 4 :]) / median(rss[n // 4 : n // 2]) - 1 if n >= 8 else None
