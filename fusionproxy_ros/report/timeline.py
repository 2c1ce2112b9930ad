"""The strips of the timeline, as shapes that the page draws: modes over time, and curves.

A strip is 100 high and COLUMNS wide, whatever the length of the recording, and loses no single frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusionproxy_ros.core.frames import MODES
from fusionproxy_ros.report.wording import seconds

COLUMNS = 1000  # of a strip; a longer recording is drawn as the extremes within each
TALLEST = (55, 70, 85, 100, 100)  # of 100: the worse a mode, the taller, for those who do not see colours
NARROWEST = 3  # columns of a mode, to be seen on a phone


@dataclass(frozen=True)
class Bar:
    """A stretch of one mode. title: what a pointer over it shows."""

    mode: str
    title: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """One row of the timeline, of bars or of curves.

    curves: the outline of each, as the `d` of an SVG path; empty where it has no value.
    low, high: what its lower and upper edge stand for.
    """

    title: str
    note: str
    bars: Sequence[Bar] = ()
    curves: Sequence[str] = ()
    low: str = ""
    high: str = ""


def mode_strip(
    times_s: np.ndarray, modes: np.ndarray, texts: Sequence[str], text_of: np.ndarray, span_s: float
) -> Strip:
    """The modes: where columns hold several, the worst is in front, so that no single frame is lost.

    times_s: ascending. modes: values of FusionStatus. text_of: index into `texts`, the reasons.
    """
    scale = COLUMNS / span_s
    steps_s = np.diff(times_s)
    period_s = float(np.median(steps_s)) if steps_s.size else span_s
    # A frame lasts until the next, unless that one is missing.
    ends_s = times_s + np.append(np.minimum(steps_s, 2.5 * period_s), period_s)
    first = np.clip(np.floor(times_s * scale), 0, COLUMNS - 1).astype(int)
    last = np.maximum(np.minimum(np.floor(ends_s * scale), COLUMNS).astype(int), first + 1)
    bars = []
    for mode, name in enumerate(MODES):
        members = np.flatnonzero(modes == mode)
        edges = np.zeros(COLUMNS + 1, int)
        np.add.at(edges, first[members], 1)
        np.add.at(edges, last[members], -1)
        borders = np.flatnonzero(np.diff(np.cumsum(edges) > 0, prepend=False, append=False))
        for left, right in zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True):
            inside = members[slice(*np.searchsorted(first[members], (left, right)))]
            text = texts[text_of[inside[0]]]
            frames = f"{inside.size:,} frame{'s' * (inside.size > 1)}"
            title = f"{name}, {frames} from {seconds(times_s[inside[0]])}{': ' + text if text else ''}"
            width, height = max(right - left, NARROWEST), TALLEST[mode]
            bars.append(Bar(name, title, min(left, COLUMNS - width), 100 - height, width, height))
    return Strip("mode", "the worst within each pixel is in front; grey: no status", bars)


def curve_strip(
    title: str,
    note: str,
    unit: str,
    times_s: np.ndarray,
    curves: Sequence[np.ndarray],
    span_s: float,
    from_zero: bool = True,
) -> Strip:
    """Curves over time; each column is filled from its least to its largest value, so that spikes survive.

    curves: each of one value per time; NaN where there is none. At least one is finite.
    from_zero: the range drawn has 0 in it.
    """
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in curves] + [np.zeros(int(from_zero))])
    low, high = float(finite.min()), float(finite.max())
    margin = (high - low) * 0.04 or max(abs(high) * 0.1, 1e-3)
    bottom, top = low - margin, high + margin
    columns = np.clip(np.floor(times_s * COLUMNS / span_s), 0, COLUMNS - 1).astype(int)
    # Where nothing came for three times as long as usual the curve breaks.
    usual = COLUMNS / span_s * float(np.median(np.diff(times_s))) if times_s.size > 1 else 1
    outlines = [
        _outline(columns, (top - curve) / (top - bottom) * 100, max(3 * usual, 2)) for curve in curves
    ]
    return Strip(
        title,
        note,
        curves=outlines,
        low=_short(low) if low < high else "",
        high=f"{_short(high)} {unit}",
    )


def _outline(columns: np.ndarray, y: np.ndarray, longest_step: float) -> str:
    columns, y = columns[np.isfinite(y)], y[np.isfinite(y)]
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    if not starts.size:
        return ""
    x = columns[starts] + 0.5
    upper, lower = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    parts = []
    for piece in np.split(np.arange(x.size), np.flatnonzero(np.diff(x) > longest_step) + 1):
        across = x[piece] if piece.size > 1 else x[piece[0]] + np.array([-1, 1])
        there, back = np.resize(upper[piece], across.size), np.resize(lower[piece], across.size)
        outline = [*zip(across, there, strict=True), *zip(across[::-1], back[::-1], strict=True)]
        parts.append("M" + "L".join(f"{px:g},{py:.1f}" for px, py in outline) + "Z")
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
