"""One HTML page for a person: plain HTML, CSS and SVG, without script and without anything to fetch.

What it says is in page.html.j2, how it looks in page.css. Whatever text comes in is made printable and escaped by the
template's environment; the page is well-formed XML too.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusionproxy_ros.report.timeline import COLUMNS, Strip
from fusionproxy_ros.report.wording import clipped

_FOLDER = Path(__file__).parent
MARKER_PX, MARKER_SHARE = 23, 0.07  # height of a marker's row, and what one takes of a phone's width


@dataclass(frozen=True)
class Card:
    """One moment in pictures.

    name: its place (a time, a file). points: (title, explanation), for worst moments. mode: empty in a folder.
    pictures: what it shows -> JPEG; empty bytes where there is none. at: place on the timeline, 0..1.
    """

    name: str
    mode: str
    pictures: Mapping[str, bytes]
    points: Sequence[tuple[str, str]] = ()
    at: float = 0.0


@dataclass(frozen=True)
class Fact:
    """A figure of the run. note: what to read it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Reason:
    """Why frames had a mode. cure: what helps, where it is known."""

    mode: str
    text: str
    frames: int
    cure: str


@dataclass(frozen=True)
class Section:
    """What the page says of one recording or folder.

    shares: mode -> frames. notes: what to do or to know, most important first. ticks: labels of the time axis.
    scores: method -> metric -> mean; the first is to compare with, not a contender.
    source: what was read, for the foot of the section.
    """

    name: str
    about: str
    headline: str
    damage: Sequence[str] = ()
    shares: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    facts: Sequence[Fact] = ()
    reasons: Sequence[Reason] = ()
    strips: Sequence[Strip] = ()
    ticks: Sequence[str] = ()
    worst: Sequence[Card] = ()
    sheet: Sequence[Card] = ()
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores_note: str = ""
    source: str = ""


@dataclass(frozen=True)
class Marker:
    """The number above the timeline that leads to a card. row: from the top."""

    number: int
    row: int
    card: Card


def render(
    title: str,
    headline: str,
    sections: Sequence[Section],
    rows: Sequence[Mapping[str, str]] = (),
    failed: Mapping[str, str] | None = None,
) -> str:
    """The whole page.

    rows: of the table of several recordings, column -> cell; the nth leads to the nth section. Without any, the page
    is of one section alone. failed: recording that could not be used -> why.
    """
    template = _ENVIRONMENT.get_template("page.html.j2")
    return template.render(title=title, headline=headline, sections=sections, rows=rows, failed=failed or {})


def _printable(value: object) -> object:
    """Text without what would break the page or turn its reading direction."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def _percent(count: int, total: int) -> str:
    """To one decimal, and never rounded up to 100."""
    return f"{int(1000 * count / total) / 10:g}"


def _markers(worst: Sequence[Card]) -> list[Marker]:
    """From left to right; none covers another on a phone."""
    free_from: list[float] = []  # where each row is free again
    placed = []
    for number, card in sorted(enumerate(worst, 1), key=lambda one: one[1].at):
        row = next((row for row, free in enumerate(free_from) if card.at >= free), len(free_from))
        free_from[row : row + 1] = [card.at + MARKER_SHARE]
        placed.append(Marker(number, row, card))
    return placed


def _best(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metric -> the largest value of those after the first."""
    own, *contenders = scores.values()
    return {metric: max(row[metric] for row in contenders) for metric in own}


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals.update(COLUMNS=COLUMNS, MARKER_PX=MARKER_PX)
_ENVIRONMENT.filters.update(
    base64=lambda data: base64.b64encode(data).decode(),
    best=_best,
    clipped=clipped,
    markers=_markers,
    percent=_percent,
    thousands="{:,}".format,
)
