"""Where the views of the board come from: two folders of images, or a bag. Streaming, with bounded memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros.calibrate.board import Board, BoardError, BoardView
from fusionproxy_ros.calibrate.find_board import find_board
from fusionproxy_ros.core import image_messages
from fusionproxy_ros.core.frames import NS_PER_S, Mode, Pair
from fusionproxy_ros.core.image_files import images_in_each
from fusionproxy_ros.core.pictures import bgr_of
from fusionproxy_ros.geometry.lens import Size
from fusionproxy_ros.pairing.nearest import NearestSync
from fusionproxy_ros.pairing.settings import SyncSettings

MAX_BOARD_VIEWS = 40  # more add time and no certainty
MAX_SEARCHED = 240  # RGB frames of a bag in which the board is searched, evenly spread
REPEAT = 0.02  # of the image width: a board that moved less since another view adds nothing
PICTURE_PX = 640  # longer side of the RGB pictures kept for the report


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

    @property
    def sides(self) -> tuple[tuple[str, np.ndarray | None], tuple[str, np.ndarray | None]]:
        return ("rgb", self.rgb), ("thermal", self.thermal)


@dataclass(frozen=True, eq=False)
class Shots:
    """The views that were kept, and what the report shows of the rest.

    pictures: name -> RGB, reduced to PICTURE_PX, and thermal; of kept views only.
    searched, found: images per camera, keys "rgb" and "thermal".
    problems: one line per image that could not be used.
    """

    views: list[BoardView]
    pictures: dict[str, tuple[np.ndarray | None, np.ndarray | None]]
    rgb_size_px: Size
    thermal_size_px: Size
    searched: dict[str, int]
    found: dict[str, int]
    problems: list[str]


def from_folders(rgb_dir: Path, thermal_dir: Path, board: Board) -> Shots:
    """Search two folders of images that share file names (suffixes may differ).

    A picture without a partner serves its own camera. Raises InputError where a folder is missing or where they share
    no file name, BoardError where no image can be used.
    """
    rgb_paths, thermal_paths = images_in_each(rgb_dir, thermal_dir)
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
    """Search every exposure and keep at most MAX_BOARD_VIEWS views that differ most.

    least_motion: of the image width; of two views whose boards differ by less only the better one is kept.
    Raises BoardError when no image can be used.
    """
    kept = _Kept(least_motion)
    searched, found = {"rgb": 0, "thermal": 0}, {"rgb": 0, "thermal": 0}
    sizes_px: dict[str, Size] = {}
    problems = []
    for exposure in exposures:
        problem = exposure.problem
        corners: dict[str, np.ndarray | None] = {"rgb": None, "thermal": None}
        for side, pixels in exposure.sides:
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
        kept.offer(exposure, BoardView(exposure.name, corners["rgb"], corners["thermal"]))
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

    view: BoardView
    pictures: tuple[np.ndarray | None, np.ndarray | None]
    speed: float
    width_px: dict[str, int]

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better: seen by both cameras, then standing still, for cameras seldom expose together."""
        return self.view.rgb is None or self.view.thermal is None, self.speed


@dataclass
class _Kept:
    """The candidates that differ most, at most MAX_BOARD_VIEWS of them."""

    least_motion: float
    candidates: list[_Candidate] = field(default_factory=list)
    last: tuple[_Candidate, int] | None = None

    def offer(self, exposure: Exposure, view: BoardView) -> None:
        if view.rgb is None and view.thermal is None:
            self.last = None
            return
        width_px = {side: pixels.shape[1] for side, pixels in exposure.sides if pixels is not None}
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
        if len(self.candidates) > MAX_BOARD_VIEWS:
            self.candidates.remove(self._most_redundant())

    def _most_redundant(self) -> _Candidate:
        """The worse one of the two most alike."""
        pairs = [(a, b) for i, a in enumerate(self.candidates) for b in self.candidates[:i]]
        return max(min(pairs, key=lambda pair: _motion(*pair)), key=lambda candidate: candidate.rank)


def _motion(a: _Candidate, b: _Candidate) -> float:
    """RMS distance of the board's points between two views, in image widths; infinite without a common camera."""
    distances = []
    for side in ("rgb", "thermal"):
        before, after = a.view.corners(side), b.view.corners(side)
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
    from fusionproxy_ros.bags.camera_topics import choose_topics
    from fusionproxy_ros.bags.recording import Recording
    from fusionproxy_ros.bags.storage import BagError  # needs libraries that folders do without

    sync = NearestSync(SyncSettings(deadline_s=1.0, max_hold_s=0.0, frozen_after_s=0.0))
    with Recording(bag) as recording:
        cameras = choose_topics(recording, rgb_topic, thermal_topic)
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
                stamp_ns = image_messages.stamp_to_ns(msg.header.stamp)
                frame = (image_messages.read_rgb if is_rgb else image_messages.read_thermal)(
                    msg, message.log_ns
                )
            except (BagError, image_messages.MessageError) as error:
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
    thermal = pair.thermal.pixels if pair.mode is Mode.FUSED and pair.thermal is not None else None
    problem = "" if thermal is not None else f"no thermal frame near it ({pair.reason})"
    return Exposure(_stamp(pair.rgb.stamp_ns), bgr_of(pair.rgb), thermal, pair.rgb.stamp_ns, problem)


def _stamp(stamp_ns: int) -> str:
    return f"{stamp_ns // NS_PER_S}.{stamp_ns % NS_PER_S:09d}"
