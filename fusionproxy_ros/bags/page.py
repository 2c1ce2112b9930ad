"""One HTML page for a person: plain HTML, CSS and SVG, without script and without anything to fetch.

Whatever text comes in is escaped here, by `tag`; the page is well-formed XML too.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fusionproxy_ros.bags.style import STYLE
from fusionproxy_ros.frames import MODES

COLUMNS = 1000  # of a plot; a longer recording is drawn as the extremes within each
TALLEST = (55, 70, 85, 100, 100)  # of 100: the worse a mode, the taller, for those who do not see colours
NARROWEST = 3  # columns of a mode in the strip, to be seen on a phone
LONGEST_TEXT = 400  # characters of a text that somebody else wrote
MARKER_PX, MARKER_SHARE = 23, 0.07  # height of a marker's row, and what one takes of a phone's width
# Nothing is to be fetched or run, whatever a recording may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = {"img", "meta", "br"}


class Markup(str):
    """Text that is HTML already; any other is escaped."""


@dataclass(frozen=True)
class Lane:
    """One row of the timeline. low, high: what its lower and upper edge stand for."""

    title: str
    note: str
    drawing: Markup
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Shot:
    """One moment in pictures.

    name: its place (a time, a file). points: (title, explanation), for worst moments. mode: empty in a folder.
    pictures: what it shows -> JPEG; empty bytes where there is none. at: place on the timeline, 0..1.
    """

    name: str
    mode: str
    pictures: Mapping[str, bytes]
    points: Sequence[tuple[str, str]] = ()
    at: float | None = None


class Fact(NamedTuple):
    label: str
    value: str
    note: str = ""


class Reason(NamedTuple):
    mode: str
    text: str
    count: int
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
    lanes: Sequence[Lane] = ()
    ticks: Sequence[str] = ()
    worst: Sequence[Shot] = ()
    sheet: Sequence[Shot] = ()
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores_note: str = ""
    source: str = ""


def tag(name: str, /, *children: str | Iterable[str], **attributes: str) -> Markup:
    """An element. Children and attributes are escaped unless they are Markup; `class_` is class, `_` is `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_printable(value))}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Markup(f"<{name}{written} />")
    return Markup(f"<{name}{written}>{_join(children)}</{name}>")


def _join(children: Iterable[str | Iterable[str]]) -> Markup:
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(_printable(child)))
        else:
            parts.append(_join(child))
    return Markup("".join(parts))


def _printable(text: str) -> str:
    """Without what would break the page or turn its reading direction."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def clipped(text: str) -> str:
    """What somebody else wrote, no longer than a page can bear."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


# --- the timeline


def seconds(value_s: float) -> str:
    """A time in the recording: 4.20 s, 1:02.5, 1:00:02.5."""
    if value_s < 60:
        return f"{value_s:.2f} s"
    minutes, rest = divmod(round(value_s, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def duration(value_s: float) -> str:
    """Such as 33 ms or 1.20 s."""
    if not np.isfinite(value_s):
        return "not known"
    return f"{value_s:.2f} s" if abs(value_s) >= 1 else f"{1e3 * value_s:.3g} ms"


def mode_lane(
    times_s: np.ndarray, modes: np.ndarray, texts: Sequence[str], text_of: np.ndarray, span_s: float
) -> Lane:
    """The strip of modes: where columns hold several, the worst is in front, so that no single frame is lost.

    times_s: ascending. modes: values of FusionStatus. text_of: index into `texts`, the reasons.
    """
    scale = COLUMNS / span_s
    steps_s = np.diff(times_s)
    period_s = float(np.median(steps_s)) if steps_s.size else span_s
    # A frame lasts until the next, unless that one is missing.
    ends_s = times_s + np.append(np.minimum(steps_s, 2.5 * period_s), period_s)
    first = np.clip(np.floor(times_s * scale), 0, COLUMNS - 1).astype(int)
    last = np.maximum(np.minimum(np.floor(ends_s * scale), COLUMNS).astype(int), first + 1)
    rects = []
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
            place = {"x": min(left, COLUMNS - width), "y": 100 - height, "width": width, "height": height}
            rects.append(
                tag("rect", tag("title", title), class_=name, **{k: str(v) for k, v in place.items()})
            )
    return Lane("mode", "the worst within each pixel is in front; grey: no status", _svg("modes", rects))


def curve_lane(
    title: str,
    note: str,
    unit: str,
    times_s: np.ndarray,
    curves: Sequence[np.ndarray],
    span_s: float,
    from_zero: bool = True,
) -> Lane:
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
    shapes = [
        _curve(f"curve{index}", columns, (top - curve) / (top - bottom) * 100, max(3 * usual, 2))
        for index, curve in enumerate(curves)
    ]
    return Lane(
        title, note, _svg("curves", shapes), _short(low) if low < high else "", f"{_short(high)} {unit}"
    )


def _curve(name: str, columns: np.ndarray, y: np.ndarray, longest_step: float) -> Markup:
    columns, y = columns[np.isfinite(y)], y[np.isfinite(y)]
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    if not starts.size:
        return Markup()
    x = columns[starts] + 0.5
    upper, lower = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    parts = []
    for piece in np.split(np.arange(x.size), np.flatnonzero(np.diff(x) > longest_step) + 1):
        across = x[piece] if piece.size > 1 else x[piece[0]] + np.array([-1, 1])
        there, back = np.resize(upper[piece], across.size), np.resize(lower[piece], across.size)
        outline = [*zip(across, there, strict=True), *zip(across[::-1], back[::-1], strict=True)]
        parts.append("M" + "L".join(f"{px:g},{py:.1f}" for px, py in outline) + "Z")
    return tag("path", class_=name, d="".join(parts))


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _svg(name: str, children: Iterable[Markup]) -> Markup:
    box = f"0 0 {COLUMNS} 100"
    return tag("svg", children, class_=name, viewBox=box, preserveAspectRatio="none", role="img")


def _timeline(section: Section, prefix: str) -> Markup:
    marked = [(shot.at, index, shot) for index, shot in enumerate(section.worst, 1)]
    rows = [0.0] * len(marked)  # where each row of markers is free again
    markers = []
    for at, index, shot in sorted(marked, key=lambda one: one[0]):
        row = next(row for row, free in enumerate(rows) if at >= free)
        rows[row] = at + MARKER_SHARE
        place = f"left:{100 * at:.2f}%;top:{MARKER_PX * row}px"
        markers.append(tag("a", str(index), href=f"#{prefix}m{index}", style=place, title=shot.points[0][0]))
    height = f"height:{MARKER_PX * sum(free > 0 for free in rows)}px"
    lanes = []
    for lane in section.lanes:
        edges = tag("i", lane.high, class_="high"), tag("i", lane.low, class_="low")
        caption = tag("figcaption", tag("b", lane.title), tag("span", lane.note))
        lanes.append(tag("figure", caption, tag("div", lane.drawing, edges, class_="plot"), class_="lane"))
    nav = tag("nav", markers, class_="markers", aria_label="worst moments", style=height)
    axis = tag("div", [tag("span", tick) for tick in section.ticks], class_="axis")
    return tag("section", tag("h3", "Timeline"), nav, lanes, axis, class_="timeline")


# --- the page


def render(title: str, headline: str, table: Markup, sections: Sequence[Section]) -> str:
    """The whole page. table: of several recordings, from `overview`; empty for one."""
    alone = not table
    body = [_section(section, f"s{index}", alone) for index, section in enumerate(sections, 1)]
    header = [] if alone else [tag("header", tag("p", title, class_="over"), tag("h1", headline)), table]
    colours = (f"rect.{m}{{fill:var(--{m})}}:not(rect).{m}{{background:var(--{m})}}" for m in MODES)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{title}: {headline}"),
        tag("style", Markup(STYLE + "".join(colours))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', header, body)), lang='en')}\n"


def overview(rows: Sequence[Mapping[str, str]], failed: Mapping[str, str]) -> Markup:
    """The table of several recordings; the nth row leads to the nth section. failed: name -> why."""
    cells = []
    for index, row in enumerate(rows, 1):
        name, *others = row.values()
        head = tag("th", tag("a", name, href=f"#s{index}"), scope="row")
        cells.append(tag("tr", head, [tag("td", other) for other in others]))
    for name, why in failed.items():
        reason = tag("td", clipped(why), colspan=str(len(rows[0]) - 1))
        cells.append(tag("tr", tag("th", name, scope="row"), reason))
    return _table("overview", rows[0], cells)


def _section(section: Section, prefix: str, alone: bool) -> Markup:
    over = tag("p", f"{section.name} · {section.about}", class_="over")
    worst = [_card(shot, str(n), f"{prefix}m{n}") for n, shot in enumerate(section.worst, 1)]
    sheet = [_card(shot, "", f"{prefix}c{n}") for n, shot in enumerate(section.sheet, 1)]
    return tag(
        "article",
        tag("header", over, tag("h1" if alone else "h2", section.headline)),
        section.damage and _damage(section.damage),
        section.shares and _shares(section.shares),
        section.notes and tag("ul", [tag("li", note) for note in section.notes], class_="notes"),
        section.facts and tag("dl", [_fact(*fact) for fact in section.facts], class_="facts"),
        section.lanes and _timeline(section, prefix),
        section.reasons and _reasons(section.reasons),
        worst and _cards("Worst moments" if section.lanes else "Worst pictures", worst, "worst"),
        sheet and _cards("Contact sheet", sheet, "sheet"),
        _scores(section),
        section.source and tag("p", section.source, class_="fine"),
        id=prefix,
    )


def _damage(items: Sequence[str]) -> Markup:
    shown = tag("ul", [tag("li", item) for item in items])
    return tag("div", tag("h3", "The recording is damaged"), shown, class_="damage", role="alert")


def _shares(shares: Mapping[str, int]) -> Markup:
    total, bar, legend = sum(shares.values()), [], []
    for mode, count in shares.items():
        if count:
            percent = int(1000 * count / total) / 10  # never rounded up to 100
            bar.append(tag("span", class_=mode, style=f"flex-grow:{count}", title=f"{mode}: {count:,}"))
            words = tag("b", mode), f" {count:,} · {percent:g} %"
            legend.append(tag("li", tag("i", class_=mode), words))
    return tag("div", tag("div", bar, class_="bar"), tag("ul", legend, class_="legend"), class_="shares")


def _fact(label: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", label), tag("dd", value, tag("small", note)))


def _cards(title: str, cards: Sequence[Markup], name: str) -> Markup:
    return tag("section", tag("h3", title), tag("div", cards, class_="cards"), class_=name)


def _card(shot: Shot, number: str, anchor: str) -> Markup:
    figures = []
    for kind, jpeg in shot.pictures.items():
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        nothing = tag("div", f"no {'output' if kind == 'fused' else kind}", class_="none")
        picture = tag("img", src=source, alt=f"{kind}, {shot.name}") if jpeg else nothing
        figures.append(tag("figure", picture, tag("figcaption", kind), class_=kind.split()[0]))
    badge = shot.mode and tag("span", shot.mode, class_=f"badge {shot.mode}")
    head = tag(
        "p", number and tag("b", number, class_="number"), tag("span", shot.name), badge, class_="when"
    )
    points = [tag("p", tag("b", title), " ", text, class_="point") for title, text in shot.points]
    return tag("article", head, tag("div", figures, class_="pictures"), points, class_="card", id=anchor)


def _reasons(reasons: Sequence[Reason]) -> Markup:
    rows = []
    for mode, text, count, cure in reasons:
        words = tag("td", text, cure and [tag("br"), tag("small", cure)])
        badge = tag("td", tag("span", mode, class_=f"badge {mode}"))
        rows.append(tag("tr", badge, tag("td", f"{count:,}"), words))
    return tag(
        "section", tag("h3", "Reasons"), _table("reasons", ("mode", "frames", "reason, and what helps"), rows)
    )


def _scores(section: Section) -> Markup:
    note = tag("p", section.scores_note, class_="fine")
    if not section.scores:
        return tag("section", tag("h3", "Metrics"), note)
    (reference, own), *contenders = section.scores.items()
    best = {metric: max(row[metric] for _, row in contenders) for metric in own}
    rows = []
    for method, row in section.scores.items():
        is_best = {metric: method != reference and row[metric] == best[metric] for metric in row}
        cells = [tag("td", f"{row[metric]:.3f}", class_="best" * is_best[metric]) for metric in row]
        rows.append(tag("tr", tag("th", method, scope="row"), cells))
    return tag("section", tag("h3", "Metrics"), _table("scores", ("", *own), rows), note)


def _table(name: str, columns: Iterable[str], rows: Iterable[Markup]) -> Markup:
    head = tag("thead", tag("tr", [tag("th", column, scope="col") for column in columns]))
    return tag("div", tag("table", head, tag("tbody", rows), class_=name), class_="scroll")
