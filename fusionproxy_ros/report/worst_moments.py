"""Which moments of a recording are worst, and in what."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from fusionproxy_ros.core.frames import MODES, Mode
from fusionproxy_ros.report import verdict
from fusionproxy_ros.report.status_table import STAGE_TIMES, Statuses
from fusionproxy_ros.report.wording import duration, seconds

WORTH_PX = 2.0  # of misalignment, to be shown
Points = Iterator[tuple[int, str, str]]  # frame, title, explanation


def worst_moments(statuses: Statuses, times_s: np.ndarray) -> dict[int, list[tuple[str, str]]]:
    """Frame -> (title, explanation) of what was worst there, in order of time."""
    found = defaultdict(list)
    for find in (_unfused, _without_output, _slow, _skewed, _displaced):
        for index, title, text in find(statuses, times_s):
            found[int(index)].append((title, text))
    return dict(sorted(found.items()))


def _unfused(statuses: Statuses, times_s: np.ndarray) -> Points:
    edges = np.diff((statuses.mode != Mode.FUSED).astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
    if starts.size:
        start, end = (side[np.argmax(ends - starts)] for side in (starts, ends))
        frames = f"{end - start} frames" if end - start > 1 else "One frame"
        middle = (start + end - 1) // 2
        text = f"{frames} from {seconds(times_s[start])} to {seconds(times_s[end - 1])}: "
        yield middle, "Longest time without fresh thermal.", text + verdict.why(statuses.text(middle))


def _without_output(statuses: Statuses, times_s: np.ndarray) -> Points:
    for mode in ("REFUSED", "DROPPED"):
        members = np.flatnonzero(statuses.mode == MODES.index(mode))
        if members.size:
            count = f"One of {members.size} without an output" if members.size > 1 else "It has no output"
            text = f"{count}: {verdict.why(statuses.text(members[0]))}"
            yield members[0], f"First {mode.lower()} frame.", text


def _slow(statuses: Statuses, times_s: np.ndarray) -> Points:
    answered, gaps_s = statuses.answered, statuses.gaps_s
    if gaps_s.size and gaps_s.max() > 1.5 * (usual_s := np.median(gaps_s)):
        text = f"Nothing came for {duration(gaps_s.max())} before this frame; usual are {duration(usual_s)}."
        yield answered[1 + np.argmax(gaps_s)], "Longest gap.", text
    if statuses.is_live:
        total_s = statuses["total_s"]
        index = answered[np.argmax(total_s[answered])]
        stage = max(STAGE_TIMES, key=lambda name: statuses[name][index])
        text = (
            f"{duration(total_s[index])} from the later input to the end of publishing, "
            f"{duration(statuses[stage][index])} of it {stage.removesuffix('_s')}; the median is "
            f"{duration(np.median(total_s[answered]))}."
        )
        yield index, "Largest latency.", text


def _skewed(statuses: Statuses, times_s: np.ndarray) -> Points:
    skew_s = np.nan_to_num(statuses.fused_skew_s)
    if skew_s.any():
        index = int(np.argmax(np.abs(skew_s)))
        side = "later" if skew_s[index] > 0 else "older"
        usual = duration(np.median(np.abs(skew_s[statuses.mode == Mode.FUSED])))
        text = (
            f"Thermal is {duration(abs(skew_s[index]))} {side} than RGB (median {usual}): what moves is doubled. "
            "sync_tolerance_s bounds it."
        )
        yield index, "Largest skew of a fused frame.", text


def _displaced(statuses: Statuses, times_s: np.ndarray) -> Points:
    """In brightness or in place."""
    thermal = statuses.with_thermal
    low, high = statuses["thermal_low"][thermal], statuses["thermal_high"][thermal]
    if thermal.size > 1 and (width := np.median(high - low)) > 0:
        steps = np.maximum(np.abs(np.diff(low)), np.abs(np.diff(high)))
        at = np.argmax(steps)
        if steps[at] > width / 20:
            before, after = (verdict.window(low[i], high[i]) for i in (at, at + 1))
            text = (
                f"From {before} to {after} counts within a frame: thermal changes its brightness. "
                "normalisation.time_constant_s smooths that, normalisation.mode: fixed rules it out."
            )
            yield thermal[at + 1], "Largest jump of the thermal window.", text
    shift_px = np.nan_to_num(statuses.shift_px)
    index = int(np.argmax(shift_px))
    if shift_px[index] >= WORTH_PX:
        x, y = (statuses[f"misalignment_{axis}_px"][index] for axis in "xy")
        text = (
            f"Thermal lies ({x:+.1f}, {y:+.1f}) px off RGB: run fusionproxy calibrate, or set "
            "registration.refine_max_px."
        )
        yield index, "Largest misalignment.", text
