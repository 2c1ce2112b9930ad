"""What the statuses of a recording come down to: a headline, the reasons, figures, and notes on what to do."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from fusionproxy_ros.core.frames import MODES, NS_PER_S
from fusionproxy_ros.report.page import Fact, Reason
from fusionproxy_ros.report.status_table import Statuses
from fusionproxy_ros.report.wording import duration

WORTH_S = 0.005  # of constant skew, to be mentioned
OUT_OF_ORDER = 10  # counters that fall by less are of statuses that were recorded in another order
CURES = {  # beginning of a reason -> what helps, where the reason does not say so
    "no thermal frame within sync_tolerance_s": "Thermal is late, slow or stops: look at its rate with ros2 topic hz, "
    "at the skew and at clock_offset_s; then set thermal_time_offset_s or sync_tolerance_s.",
    "last thermal frame is older than max_hold_s": "Thermal stopped: look at its driver and cable.",
    "no thermal frame received": "Start the thermal driver, or remap thermal/image_raw to its topic.",
    "thermal is frozen": "The driver repeats one image, as during a shutter calibration. Where a still simulated scene "
    "is meant, set frozen_after_s to 0.",
    "thermal is flat or noise": "Uncover the lens; during a shutter calibration it passes by itself.",
    "overload": "The student is too slow for this rate: a GPU, smaller images or a lower rate help.",
}


def reasons(statuses: Statuses) -> list[Reason]:
    """By count, the most frequent first."""
    pairs = Counter(zip(statuses.mode.tolist(), statuses.reason.tolist(), strict=True))
    return [
        Reason(MODES[mode], text, count, _cure(text))
        for (mode, reason), count in pairs.most_common()
        if (text := statuses.reasons[reason])
    ]


def _cure(reason: str) -> str:
    return next((cure for start, cure in CURES.items() if reason.startswith(start)), "")


def why(reason: str) -> str:
    """A reason as sentences."""
    return f"{reason or 'no reason given'}. {_cure(reason)}".strip()


def headline(statuses: Statuses) -> str:
    """The verdict; of the two commonest failures it says why."""
    shares, total = statuses.shares, len(statuses)
    fused = shares["FUSED"]
    some = f"{fused:,}" if fused else "None"
    parts = [f"All {total:,} frames fused" if fused == total else f"{some} of {total:,} frames fused"]
    of_modes = reasons(statuses)
    explained = sorted(MODES[1:], key=lambda mode: -shares[mode])[:2]
    for mode, verb in zip(MODES[1:], ("held", "passed through", "refused", "dropped"), strict=True):
        own = [row.text for row in of_modes if row.mode == mode and mode in explained]
        because = f" {'mostly ' * (len(own) > 1)}because {own[0].split(': ')[0]}" if own else ""
        if shares[mode]:
            parts.append(f"{shares[mode]:,} {verb}{because}")
    if statuses.gaps_s.size:
        parts.append(f"longest gap {duration(statuses.gaps_s.max())}")
    return "; ".join(parts)


def window(low: float, high: float) -> str:
    """The counts that are black and white."""
    digits = 0 if high - low >= 20 else 2
    return f"{low:.{digits}f} – {high:.{digits}f}"


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def facts(statuses: Statuses) -> Iterator[Fact]:
    """The figures of a run; "longest gap" and "latency p99" are always among them."""
    shares, answered, thermal = statuses.shares, statuses.answered, statuses.with_thermal
    lost = f"{shares['DROPPED']} dropped, {shares['REFUSED']} refused"
    yield Fact("frames answered", f"{answered.size:,} of {len(statuses):,}", lost)
    gaps_s, stamps_ns = statuses.gaps_s, statuses.stamp_ns[answered]
    if gaps_s.size and gaps_s.sum():
        used = np.unique(statuses.thermal_ns[thermal]).size
        yield Fact("rate", f"{gaps_s.size / gaps_s.sum():.1f} Hz", f"{used:,} thermal frames used")
    if gaps_s.size:
        by_stamps_s = np.diff(stamps_ns).max() / NS_PER_S
        yield Fact("longest gap", duration(gaps_s.max()), f"by the stamps {duration(by_stamps_s)}")
    else:
        yield Fact("longest gap", "none")
    skew_s = _finite(statuses.fused_skew_s)
    if skew_s.size:
        p50, p99 = np.percentile(np.abs(skew_s), (50, 99))
        signed = f"with sign {1e3 * np.median(skew_s):+.1f} ms"
        yield Fact("skew p99", duration(p99), f"p50 {duration(p50)}, {signed}; fused frames")
    if statuses.is_live:
        p50, p99 = np.percentile(statuses["total_s"][answered], (50, 99))
        student_s = statuses["student_s"][thermal]
        student = f", student {duration(np.median(student_s))}" if thermal.size else ""
        yield Fact("latency p99", duration(p99), f"p50 {duration(p50)}{student}")
    else:
        yield Fact("latency p99", "not live", "fused offline: nothing was timed")
    if thermal.size:
        low, high = (float(np.median(statuses[name][thermal])) for name in ("thermal_low", "thermal_high"))
        yield Fact("thermal window", window(low, high), "counts shown black – white, median")
        covered = np.median(statuses["registration_valid_fraction"][thermal])
        error_px = _finite(statuses["parallax_error_px"][thermal])
        parallax = f"parallax {np.median(error_px):.1f} px at nearest_object_m" if error_px.size else ""
        yield Fact("RGB that thermal covers", f"{100 * covered:.3g} %", parallax)
    offset_s = _finite(statuses["clock_offset_s"])
    if offset_s.size:
        note = f"thermal − RGB, at the end; varied by {duration(np.ptp(offset_s))}"
        yield Fact("clock offset", f"{1e3 * offset_s[-1]:+.1f} ms", note)
    shift_px = statuses.shift_px
    known = np.isfinite(shift_px)
    if known.any():
        x, y = (np.median(statuses[f"misalignment_{axis}_px"][known]) for axis in "xy")
        note = f"median ({x:+.1f}, {y:+.1f}), largest {shift_px[known].max():.1f}"
        yield Fact("misalignment", f"{np.hypot(x, y):.1f} px", note)


def notes(statuses: Statuses) -> Iterator[str]:
    """What to know before the figures are believed, and what to do."""
    # A recorder may write neighbours in the wrong order; a node that starts again begins at 0.
    restarts = np.flatnonzero(np.diff(statuses.handled) < -OUT_OF_ORDER) + 1
    runs = np.split(statuses.handled, restarts)
    if (missing := sum(int(np.ptp(run)) + 1 - run.size for run in runs)) > 0:
        yield (
            f"By the node's counters {missing} statuses are missing from the recording: the recorder was too slow, or "
            "lost them on the way; the figures here are of those recorded."
        )
    if restarts.size:
        yield f"The counters went back {restarts.size} times: the node was configured again in between."
    if back := int((np.diff(statuses.stamp_ns) < -NS_PER_S).sum()):
        yield f"RGB stamps went back {back} times: a clock was set, or a looped recording was played."
    if statuses.unreadable:
        yield f"{statuses.unreadable} statuses cannot be read and are left out."
    if not statuses.is_live:
        yield "The latency is not of a live run: this was fused offline, and its times are how long a frame waited."
    skew_s = _finite(statuses.fused_skew_s)
    offset_s = float(np.median(skew_s)) if skew_s.size else 0.0
    if skew_s.size > 10 and np.percentile(np.abs(skew_s - offset_s), 90) < abs(offset_s) / 2 > WORTH_S:
        yield (
            f"Thermal is {duration(abs(offset_s))} {'later' if offset_s > 0 else 'earlier'} than RGB all the time: if "
            f"the cameras are triggered together, add {offset_s:+.4f} to thermal_time_offset_s."
        )
    if statuses.thermal_refused:
        yield f"{statuses.thermal_refused} thermal messages were refused: /diagnostics says why."
