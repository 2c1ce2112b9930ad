"""`fusionproxy report`: one HTML page from which a person judges a fused recording in a minute.

A recording is read twice: its statuses alone, then the images of the few moments that the page shows. Memory grows by
about two hundred bytes per frame, whatever the images are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.bags.recording import STORAGES, Recording
from fusionproxy_ros.bags.storage import BagError
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import MODES, NS_PER_S, Frame, Mode
from fusionproxy_ros.core.image_files import (
    InputError,
    images_in_each,
    read_rgb_file,
    read_thermal_file,
)
from fusionproxy_ros.core.pictures import bgr_of, luma_of, spread
from fusionproxy_ros.fusion.gain_control import Normaliser, sample_step, to_uint8
from fusionproxy_ros.fusion.settings import SMALLEST_SPAN, GainSettings
from fusionproxy_ros.metrics.classical import average, maximum
from fusionproxy_ros.metrics.fusion_metrics import RANKED, qabf
from fusionproxy_ros.metrics.scores import Means, mean_scores, scores_of_pair
from fusionproxy_ros.report import verdict
from fusionproxy_ros.report.moment_images import REGISTERED, Roles, find_roles, images_at
from fusionproxy_ros.report.page import Card, Section, render
from fusionproxy_ros.report.status_table import Statuses, read_statuses, status_topics
from fusionproxy_ros.report.timeline import Strip, curve_strip, mode_strip
from fusionproxy_ros.report.wording import seconds
from fusionproxy_ros.report.worst_moments import worst_moments

SHEET_CARDS = 12  # in the contact sheet, and frames that are measured
SHEET_CARDS_OF_SEVERAL = 4  # where the page has several recordings
FOLDER_PAIRS = 60  # pairs of a folder in which the worst are looked for
KINDS = ("rgb", "thermal", "fused")  # folders of pictures that share names
LONGEST_LIST = 10  # rows before "and N more"
FUSED_PX, SOURCE_PX = (480, 30_000), (240, 10_000)  # width of a picture, and about how many bytes it may take
QUALITIES = (82, 65, 45, 25)  # of JPEG, until a picture is small enough
MEASURED_PX = 640  # width to which wider frames are reduced to be measured
LEAST_PX = 64  # smaller pictures are not measured: VIF's windows need 48
COMPARED = {"RGB alone": lambda luma, thermal: luma, "average": average, "maximum": maximum}
METRICS_SAY = (
    "Larger is better; the best fusion is green. VIF, Qabf and SSIM: information, edges and structure of both sources "
    "kept; SCD: what each adds to the other; MI: information shared. A copy of one source scores high in VIF, Qabf and "
    "MI: RGB alone is there to show how much thermal adds (SCD, SSIM), and how little of RGB is lost for it."
)
NO_METRICS = (
    "No metrics: they need the fused, the RGB and the registered thermal images, of one size and not tiny."
)
REGISTER = f" Set debug_images: true (fusion.yaml), and record the topic that ends with {REGISTERED}."


class ReportError(FusionError):
    """There is nothing to report on, or the page cannot be written. The message names the cause and the cure."""


@dataclass(frozen=True)
class Report:
    """The page that was written, and what it says in one line. modes: name -> frames; empty for a folder of images."""

    page: Path
    headline: str
    modes: dict[str, int]


def report(path: Path, out: Path) -> Report:
    """Write the page about `path`: a recording, a folder of them, or a folder with rgb/, thermal/ and fused/.

    Raises BagError, InputError and ReportError.
    """
    failed: dict[str, str] = {}
    if _is_recording(path):
        sections = [_of_recording(path, SHEET_CARDS)]
    elif (path / "fused").is_dir():
        sections = [_of_folder(path)]
    else:
        sections = []
        for bag in _recordings_in(path):
            try:
                sections.append(_of_recording(bag, SHEET_CARDS_OF_SEVERAL))
            except FusionError as error:
                failed[bag.name] = str(error)
        if not sections:
            raise BagError("\n".join(failed.values()))
    modes = sum((Counter(section.shares) for section in sections), Counter[str]())
    headline, rows = sections[0].headline, []
    if len(sections) + len(failed) > 1:
        headline = f"{len(sections)} recordings: {modes['FUSED']:,} of {modes.total():,} frames fused"
        if failed:
            headline += f"; {len(failed)} could not be used"
        rows = [_row(section) for section in sections]
    text = render(f"fusionproxy report on {path.absolute().name}", headline, sections, rows, failed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error}") from error
    return Report(out, headline, {mode: modes[mode] for mode in MODES if modes[mode]})


def _is_recording(path: Path) -> bool:
    if path.is_dir():
        return any(f.name == "metadata.yaml" or STORAGES.keys() & set(f.suffixes) for f in path.iterdir())
    return path.is_file()


def _recordings_in(path: Path) -> list[Path]:
    if not path.is_dir():
        raise BagError(f"{path}: no such recording or folder")
    found = [one for one in sorted(path.iterdir()) if one.is_dir() and _is_recording(one)]
    if not found:
        raise BagError(
            f"{path}: neither a recording (metadata.yaml, .mcap or .db3), nor a folder of recordings, nor a folder "
            "with rgb/, thermal/ and fused/: give what ros2 bag record, fusionproxy fuse-bag or fuse-pairs has made"
        )
    return found


def _row(section: Section) -> dict[str, str]:
    shares, facts = section.shares, {fact.label: fact.value for fact in section.facts}
    return {
        "recording": section.name,
        "frames": f"{sum(shares.values()):,}",
        **{mode.lower(): f"{shares[mode]:,}" for mode in MODES},
        "longest gap": facts["longest gap"],
        "latency p99": facts["latency p99"],
        "damage": str(len(section.damage)) if section.damage else "none",
    }


def _listed(items: list[str]) -> list[str]:
    return items[:LONGEST_LIST] + [f"and {len(items) - LONGEST_LIST} more"] * (len(items) > LONGEST_LIST)


# --- a recording


def _of_recording(path: Path, in_sheet: int) -> Section:
    with Recording(path) as recording:
        topic, *others = status_topics(recording)
        statuses = read_statuses(recording, topic)
        roles = find_roles(recording, topic, statuses)
        start_ns = min(recording.start_ns or statuses.log_ns[0], statuses.log_ns[0])
        times_s = (statuses.log_ns - start_ns) / NS_PER_S
        span_s = float(max((recording.end_ns - start_ns) / NS_PER_S, times_s[-1])) or 1.0
        worst = worst_moments(statuses, times_s)
        sheet = spread(statuses.answered.tolist(), in_sheet)
        measured = spread(np.flatnonzero(statuses.mode == Mode.FUSED).tolist(), in_sheet)
        pictures, of_frames = {}, []
        for index, frames in images_at(recording, roles, statuses, {*worst, *sheet, *measured}):
            pictures[index] = _pictures(frames, statuses, index)
            if index in measured and (means := _scores(frames, statuses, index)):
                of_frames.append(means)

    def card(index: int, points: Sequence[tuple[str, str]] = ()) -> Card:
        time_s = float(times_s[index])
        mode = MODES[statuses.mode[index]]
        return Card(seconds(time_s), mode, pictures[index], points, time_s / span_s)

    topics = {"status": topic, **vars(roles)}
    return Section(
        name=path.absolute().name,
        about=f"{seconds(span_s)} of {recording.storage}",
        headline=verdict.headline(statuses),
        damage=_listed([str(one) for one in recording.damage]),
        shares=statuses.shares,
        notes=[*verdict.notes(statuses), *_topic_notes(statuses, roles, topic, others)],
        facts=list(verdict.facts(statuses)),
        reasons=verdict.reasons(statuses),
        strips=list(_strips(statuses, times_s, span_s)),
        ticks=[seconds(span_s * part / 4) for part in range(5)],
        worst=[card(index, points) for index, points in worst.items()],
        sheet=[card(index) for index in sheet],
        scores=mean_scores(of_frames) if of_frames else {},
        scores_note=f"Mean over {len(of_frames)} fused frames. {METRICS_SAY}"
        if of_frames
        else NO_METRICS + REGISTER,
        source=f"Read from {path}: " + ", ".join(f"{what} {name}" for what, name in topics.items() if name),
    )


def _topic_notes(statuses: Statuses, roles: Roles, topic: str, others: Sequence[str]) -> Iterator[str]:
    if not roles.fused:
        yield f"The recording has no fused image beside {topic}: record {topic.rpartition('/')[0]}/image too."
    if not roles.rgb:
        yield "The recording has no RGB image with the stamps of the statuses: record the RGB topic too."
    if not (roles.thermal or roles.registered) and statuses.with_thermal.size:
        yield "The recording has no thermal image with the stamps that the statuses name: record the thermal topic too."
    if others:
        yield f"There are further status topics, which this page leaves out: {', '.join(others)}."


def _strips(statuses: Statuses, times_s: np.ndarray, span_s: float) -> Iterator[Strip]:
    yield mode_strip(times_s, statuses.mode, statuses.reasons, statuses.reason, span_s)

    def of(name: str, last_mode: Mode, scale: float = 1) -> np.ndarray:
        return np.where(statuses.mode <= last_mode, scale * statuses[name], np.nan)

    curved = [
        (
            "skew",
            "of fused frames, thermal − RGB; above 0: thermal is later",
            "ms",
            [1e3 * statuses.fused_skew_s],
        )
    ]
    if statuses.is_live:
        curves = [of("total_s", Mode.PASSTHROUGH, 1e3), of("student_s", Mode.HELD, 1e3)]
        curved.append(("latency", "of all (blue), of the student (orange)", "ms", curves))
    window = [of(name, Mode.HELD) for name in ("thermal_low", "thermal_high")]
    curved.append(("thermal window", "counts shown black (blue), white (orange)", "", window))
    curved.append(("misalignment", "thermal off RGB, where an estimate was made", "px", [statuses.shift_px]))
    for title, note, unit, curves in curved:
        if any(np.isfinite(curve).any() for curve in curves):
            yield curve_strip(title, note, unit, times_s, curves, span_s, from_zero=title != "thermal window")


def _pictures(frames: dict[str, Frame], statuses: Statuses, index: int) -> dict[str, bytes]:
    """Thumbnails of one moment, for the page."""
    kind = "registered" if "registered" in frames else "thermal"
    thermal = _grey(frames[kind], statuses, index) if kind in frames else None
    fused, rgb = (bgr_of(frames[one]) if one in frames else None for one in ("fused", "rgb"))
    return {
        "fused": _thumbnail(fused, *FUSED_PX),
        "RGB": _thumbnail(rgb, *SOURCE_PX),
        "thermal on the RGB grid" if kind == "registered" else kind: _thumbnail(thermal, *SOURCE_PX),
    }


def _grey(frame: Frame, statuses: Statuses, index: int) -> np.ndarray:
    """Thermal as the student saw it: counts by the window of its status, (H, W) uint8."""
    if frame.pixels.dtype == np.uint8:
        return frame.pixels
    low, high = (float(statuses[name][index]) for name in ("thermal_low", "thermal_high"))
    return to_uint8(frame.pixels, low, high) if high - low >= SMALLEST_SPAN else _stretched(frame.pixels)


def _scores(frames: dict[str, Frame], statuses: Statuses, index: int) -> Means:
    """Of one fused frame and what could stand in for it; empty where they cannot be told."""
    thermal = frames.get("registered")
    if not thermal and statuses["registration_valid_fraction"][index] == 1:
        moved = np.isfinite(statuses["parallax_error_px"][index])
        thermal = None if moved else frames.get("thermal")
    if not (thermal and {"fused", "rgb"} <= frames.keys()):
        return {}
    return _measure(luma_of(frames["rgb"]), _grey(thermal, statuses, index), luma_of(frames["fused"]))


# --- pictures of either


def _thumbnail(pixels: np.ndarray | None, width_px: int, limit: int) -> bytes:
    """JPEG of at most that width, twice that height and about that many bytes; empty without pixels.

    pixels: (H, W) or (H, W, 3) BGR, uint8.
    """
    if pixels is None:
        return b""
    height, width = pixels.shape[:2]
    share = min(width_px / width, 2 * width_px / height)
    if share < 1:
        size_px = max(1, round(width * share)), max(1, round(height * share))
        pixels = cv2.resize(pixels, size_px, interpolation=cv2.INTER_AREA)
    for quality in QUALITIES:
        jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(jpeg) <= limit:
            break
    return jpeg


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """Counts of an unknown window as (H, W) uint8, as fuse-pairs shows a thermal image to the student."""
    step = sample_step(pixels.size)
    return to_uint8(pixels, *Normaliser(GainSettings()).follow(pixels[::step, ::step], None, 0, 0))


def _is_measurable(luma: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> bool:
    return luma.shape == thermal.shape == fused.shape and min(luma.shape) >= LEAST_PX


def _measure(luma: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> Means:
    """Method -> metric -> value; all (H, W) uint8. Empty where they cannot be compared."""
    if not _is_measurable(luma, thermal, fused):
        return {}
    share = max(MEASURED_PX / luma.shape[1], LEAST_PX / min(luma.shape))
    if share < 1:
        luma, thermal, fused = (
            cv2.resize(one, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
            for one in (luma, thermal, fused)
        )
    return scores_of_pair(luma, thermal, COMPARED | {"fused": lambda *_: fused}, RANKED)


# --- a folder of images


def _of_folder(path: Path) -> Section:
    """Three folders of pictures that share names: no times, hence no timeline."""
    try:
        found = dict(zip(KINDS, images_in_each(*(path / kind for kind in KINDS)), strict=True))
    except InputError as error:
        raise ReportError(
            f"{error}; fused/ is what fusionproxy fuse-pairs makes of rgb/ and thermal/"
        ) from error
    everything = sorted(set().union(*found.values()))
    pairs = {
        name: [found[kind][name] for kind in KINDS]
        for name in everything
        if all(name in found[kind] for kind in KINDS)
    }
    notes = [
        f"{name}: not in {', '.join(kind for kind in KINDS if name not in found[kind])}"
        for name in everything
        if name not in pairs
    ]
    edges: dict[str, float] = {}
    readable, of_frames, measured = [], [], set(spread([*pairs], SHEET_CARDS))
    for name in spread([*pairs], FOLDER_PAIRS):
        try:
            rgb, thermal, fused = _read(pairs[name])
        except InputError as error:
            notes.append(str(error))
            continue
        readable.append(name)
        luma, fused_luma = (cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) for one in (rgb, fused))
        if _is_measurable(luma, thermal, fused_luma):
            edges[name] = qabf(fused_luma, luma, thermal)
            if name in measured:
                of_frames.append(_measure(luma, thermal, fused_luma))
    if not readable:
        raise ReportError(f"{path}: none of its pictures can be read")
    count, total = len(pairs), len(everything)
    return Section(
        name=path.absolute().name,
        about=f"folder with {', '.join(f'{len(found[kind])} {kind}' for kind in KINDS)} images",
        headline=f"All {count} pictures fused" if count == total else f"{count} of {total} pictures fused",
        notes=_listed(notes),
        worst=[_card(name, pairs[name], [point]) for name, point in _worst_pictures(edges)],
        sheet=[_card(name, pairs[name]) for name in spread(readable, SHEET_CARDS)],
        scores=mean_scores(of_frames) if of_frames else {},
        scores_note=f"Mean over {len(of_frames)} pictures. {METRICS_SAY}" if of_frames else NO_METRICS,
    )


def _worst_pictures(edges: dict[str, float]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name, and title and explanation, of those that kept the fewest edges. edges: name -> Qabf."""
    for name in sorted(edges, key=lambda name: edges[name])[: min(3, len(edges) // 4)]:
        usual = np.median([*edges.values()])
        text = f"Qabf {edges[name]:.3f}, the median is {usual:.3f}: look for what went missing."
        yield name, ("Fewest edges of the sources kept.", text)


def _card(name: str, paths: Sequence[Path], points: Sequence[tuple[str, str]] = ()) -> Card:
    rgb, thermal, fused = _read(paths)
    pictures = {
        "fused": _thumbnail(fused, *FUSED_PX),
        "RGB": _thumbnail(rgb, *SOURCE_PX),
        "thermal": _thumbnail(thermal, *SOURCE_PX),
    }
    return Card(name, "", pictures, points)


def _read(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pictures of the folders KINDS: RGB and fused as BGR, thermal as grey levels. Raises InputError."""
    rgb, thermal, fused = paths
    return read_rgb_file(rgb), _stretched(read_thermal_file(thermal)), read_rgb_file(fused)
