"""Where the views of the board come from: two folders of images, or a bag. Streaming, with bounded memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros import messages
from fusionproxy_ros.calibrate.board import Board, BoardError, View, find_board
from fusionproxy_ros.folders import images_in, suffixes
from fusionproxy_ros.frames import NS_PER_S, Mode, Pair
from fusionproxy_ros.sync import NearestSync, SyncConfig

MAX_VIEWS = 40  # more add time and no certainty
MAX_SEARCHED = 240  # RGB frames of a bag in which the board is searched, evenly spread
REPEAT = 0.02  # of the image width: a board that moved less since another view adds nothing
PICTURE_PX = 640  # longer side of the RGB pictures kept for the report

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Exposure:
    """Both cameras' pictures of one moment; None, with the reason in `problem`, where there is none.

    rgb: (H, W, 3) uint8, BGR. thermal: (H, W) uint8, uint16 or float32. stamp_ns: None for loose files.
    """

    name: str
    rgb: np.ndarray | None
    thermal: np.ndarray | None
    stamp_ns: int | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Shots:
    """The views that were kept, and what the report shows of the rest.

    pictures: name -> RGB, reduced to PICTURE_PX, and thermal; of kept views only.
    searched, found: images per camera, keys "rgb" and "thermal".
    problems: one line per image that could not be used.
    """

    views: list[View]
    pictures: dict[str, tuple[np.ndarray | None, np.ndarray | None]]
    rgb_size_px: Size
    thermal_size_px: Size
    searched: dict[str, int]
    found: dict[str, int]
    problems: list[str]


def from_folders(rgb_dir: Path, thermal_dir: Path, board: Board) -> Shots:
    """Search two folders of images that share file names (suffixes may differ). Raises BoardError."""
    rgb_paths, thermal_paths = (images_in(folder, BoardError) for folder in (rgb_dir, thermal_dir))
    if not rgb_paths.keys() & thermal_paths.keys():
        raise BoardError(
            f"{rgb_dir} and {thermal_dir} share no file name: name both pictures of one moment alike, as "
            f"rgb/0001.png and thermal/0001.png ({suffixes()})"
        )
    names = sorted(rgb_paths.keys() | thermal_paths.keys())

    def exposures() -> Iterator[Exposure]:
        for name in tqdm(names, desc="searching the board", unit="view"):
            rgb, rgb_problem = _read(rgb_paths.get(name), cv2.IMREAD_COLOR)
            thermal, thermal_problem = _read(thermal_paths.get(name), cv2.IMREAD_UNCHANGED)
            if thermal is not None and thermal.ndim == 3:
                thermal = cv2.cvtColor(thermal[..., :3], cv2.COLOR_BGR2GRAY)  # only its corners count
            problem = "; ".join(filter(None, (rgb_problem, thermal_problem)))
            yield Exposure(name, rgb, thermal, problem=problem)

    return collect(exposures(), board, least_motion=0.0)


def from_bag(
    bag: Path, board: Board, rgb_topic: str | None = None, thermal_topic: str | None = None
) -> Shots:
    """Search a bag (rosbag2, sqlite3 or mcap): at most MAX_SEARCHED RGB frames, each with the nearest thermal frame.

    Topics not given are found by type and name. Raises BoardError naming cause and cure.
    """
    return collect(_bag_exposures(bag, rgb_topic, thermal_topic), board, least_motion=REPEAT)


def collect(exposures: Iterable[Exposure], board: Board, least_motion: float) -> Shots:
    """Search every exposure and keep at most MAX_VIEWS views that differ most.

    least_motion: of the image width; of two views whose boards differ by less only the better one is kept.
    Raises BoardError when no image can be used.
    """
    kept = _Kept(least_motion)
    searched, found = {"rgb": 0, "thermal": 0}, {"rgb": 0, "thermal": 0}
    sizes_px: dict[str, Size] = {}
    problems = []
    for exposure in exposures:
        problem, corners = exposure.problem, {}
        for side in ("rgb", "thermal"):
            pixels = getattr(exposure, side)
            corners[side] = None
            if pixels is None:
                continue
            size_px = pixels.shape[1], pixels.shape[0]
            if sizes_px.setdefault(side, size_px) != size_px:
                expected = "{}x{}".format(*sizes_px[side])
                problem = (
                    f"{side} is {size_px[0]}x{size_px[1]}, others {expected}: one size per camera, please"
                )
                continue
            searched[side] += 1
            corners[side] = find_board(pixels, board)
            found[side] += corners[side] is not None
        if problem:
            problems.append(f"{exposure.name}: {problem}")
        kept.offer(exposure, View(exposure.name, corners["rgb"], corners["thermal"]))
    if len(sizes_px) < 2:
        raise BoardError("no usable image of both cameras" + "".join(f"\n  {line}" for line in problems[:10]))
    return Shots(
        views=[candidate.view for candidate in kept.candidates],
        pictures={candidate.view.name: candidate.pictures for candidate in kept.candidates},
        rgb_size_px=sizes_px["rgb"],
        thermal_size_px=sizes_px["thermal"],
        searched=searched,
        found=found,
        problems=problems,
    )


# --- which views to keep


@dataclass(frozen=True, eq=False)
class _Candidate:
    """speed: of the board since the exposure before, image widths per second; 0 for loose files."""

    view: View
    pictures: tuple[np.ndarray | None, np.ndarray | None]
    speed: float
    width_px: dict[str, int]

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better: seen by both cameras, then standing still, for cameras seldom expose together."""
        return self.view.rgb is None or self.view.thermal is None, self.speed


@dataclass
class _Kept:
    """The candidates that differ most, at most MAX_VIEWS of them."""

    least_motion: float
    candidates: list[_Candidate] = field(default_factory=list)
    last: tuple[_Candidate, int] | None = None

    def offer(self, exposure: Exposure, view: View) -> None:
        if view.rgb is None and view.thermal is None:
            self.last = None
            return
        sides = {"rgb": exposure.rgb, "thermal": exposure.thermal}
        width_px = {side: pixels.shape[1] for side, pixels in sides.items() if pixels is not None}
        candidate = _Candidate(view, (_reduced(exposure.rgb), exposure.thermal), 0.0, width_px)
        if exposure.stamp_ns is not None:
            candidate = _Candidate(
                view, candidate.pictures, self._speed(candidate, exposure.stamp_ns), width_px
            )
            self.last = candidate, exposure.stamp_ns
        self._insert(candidate)

    def _speed(self, candidate: _Candidate, stamp_ns: int) -> float:
        if self.last is None:
            return math.inf
        before, before_ns = self.last
        return _motion(before, candidate) * NS_PER_S / max(stamp_ns - before_ns, 1)

    def _insert(self, candidate: _Candidate) -> None:
        alike = min(self.candidates, key=lambda other: _motion(other, candidate), default=None)
        if alike is not None and _motion(alike, candidate) < self.least_motion:
            if candidate.rank < alike.rank:
                self.candidates[self.candidates.index(alike)] = candidate
            return
        self.candidates.append(candidate)
        if len(self.candidates) > MAX_VIEWS:
            self.candidates.remove(self._most_redundant())

    def _most_redundant(self) -> _Candidate:
        """The worse one of the two most alike."""
        pairs = [(a, b) for i, a in enumerate(self.candidates) for b in self.candidates[:i]]
        return max(min(pairs, key=lambda pair: _motion(*pair)), key=lambda candidate: candidate.rank)


def _motion(a: _Candidate, b: _Candidate) -> float:
    """RMS distance of the board's points between two views, in image widths; infinite without a common camera."""
    distances = []
    for side in ("rgb", "thermal"):
        before, after = getattr(a.view, side), getattr(b.view, side)
        if before is not None and after is not None:
            distances.append(math.sqrt(((before - after) ** 2).sum(axis=1).mean()) / a.width_px[side])
    return max(distances, default=math.inf)


def _reduced(pixels: np.ndarray | None) -> np.ndarray | None:
    if pixels is None or max(pixels.shape) <= PICTURE_PX:
        return pixels
    scale = PICTURE_PX / max(pixels.shape)
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


# --- folders


def _read(path: Path | None, flags: int) -> tuple[np.ndarray | None, str]:
    """Pixels, or None and why."""
    if path is None:
        return None, ""  # the other camera's picture still serves its intrinsics
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        return None, f"{path} is not a readable image"
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        return None, f"{path} is {pixels.dtype}: give 8 or 16 bit, or 32-bit float"
    return pixels, ""


# --- bags


def _bag_exposures(bag: Path, rgb_topic: str | None, thermal_topic: str | None) -> Iterator[Exposure]:
    """RGB frames, evenly spread over the bag, each with the thermal frame nearest in time."""
    from fusionproxy_ros.bags import BagError  # needs libraries that folders do without
    from fusionproxy_ros.bags.recording import Recording
    from fusionproxy_ros.bags.topics import choose

    sync = NearestSync(SyncConfig(deadline_ns=NS_PER_S, max_hold_ns=0))
    with Recording(bag) as recording:
        cameras = choose(recording, rgb_topic, thermal_topic)
        count = recording.topics[cameras.rgb].count
        stride = math.ceil(max(count, 1) / MAX_SEARCHED)
        progress = tqdm(desc="searching the board", unit="view", total=math.ceil(count / stride))
        seen = 0
        for message in recording.messages({cameras.rgb, cameras.thermal}):
            is_rgb = message.topic.name == cameras.rgb
            seen += is_rgb
            if is_rgb and (seen - 1) % stride:
                continue
            stamp_ns = message.log_ns  # until the message tells its own
            try:
                msg = recording.decode(message)
                stamp_ns = messages.stamp_to_ns(msg.header.stamp)
                frame = (messages.read_rgb if is_rgb else messages.read_thermal)(msg, message.log_ns)
            except (BagError, messages.MessageError) as error:
                yield Exposure(_stamp(stamp_ns), None, None, problem=str(error))
                continue
            for pair in sync.add_rgb(frame) if is_rgb else sync.add_thermal(frame):
                progress.update()
                yield _exposure(pair)
        for pair in sync.poll(2**63):
            progress.update()
            yield _exposure(pair)
        progress.close()
        for damage in recording.damage:
            yield Exposure(str(damage.file), None, None, problem=f"{damage.where}: {damage.what}")


def _exposure(pair: Pair) -> Exposure:
    problem = "" if pair.mode is Mode.FUSED else f"no thermal frame near it ({pair.reason})"
    thermal = pair.thermal.pixels if pair.mode is Mode.FUSED else None
    return Exposure(_stamp(pair.rgb.stamp_ns), messages.bgr_of(pair.rgb), thermal, pair.rgb.stamp_ns, problem)


def _stamp(stamp_ns: int) -> str:
    return f"{stamp_ns // NS_PER_S}.{stamp_ns % NS_PER_S:09d}"
