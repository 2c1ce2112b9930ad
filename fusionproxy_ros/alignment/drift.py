"""How far the registered thermal image lies off the RGB image, estimated from the live stream, or no answer.

Edges agree across the spectrum in place and direction but not in sign: what is dark can be warm or cold. So both
images become fields of edge direction in doubled angle (Bigun and Granlund 1987, the structure tensor), which
turns by 360 degrees where an edge turns by 180 and is blind to the sign. The fields are correlated over a range of
shifts (orientation correlation: Fitch, Kadyrov, Christmas and Kittler 2002) in tiles, and the surfaces are added up
over the last seconds. Then a bootstrap over the tiles asks whether other parts of the picture would have given the
same shift, and the earlier and the later half of the evidence must agree. Darkness, smoke and blank walls give
noise that every part reads differently; a repeated pattern, or edges of one direction only, leave a choice that
every part makes differently: there is no estimate then.

It sees one shift for the whole picture, within its range; beyond about 2 degrees of rotation or 3 % of scale error
it abstains. What both streams show at the same pixels without seeing it, such as burnt-in text, black bars or the
visible edges that some thermal cameras draw into their pictures, speaks for zero.

There is no clock here: time is the frames' stamps. Working px are those of the reduced images; px are RGB pixels.
"""

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import cv2
import numpy as np

from fusionproxy_ros.alignment.edges import edge_directions
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import NS_PER_S

WORKING_WIDTH = 320  # images are reduced by the whole factor that comes nearest to it
REACH = 10  # working px; shifts of -REACH..REACH are searched, 20 px at 640x480
TILES = (4, 6)  # rows, columns
MARGIN = 5  # working px that an invented pixel reaches through the derivative and the tensor's smoothing
WINDOW_S = 4.0  # older evidence is forgotten
MAX_UPDATES = 128  # of 42 kB, however often it is called
MIN_UPDATES = 4
RESAMPLES = 200
AGREEMENT = 1.5  # working px from the estimate within which a resampled peak supports it
MIN_CONFIDENCE = 0.95
STEADY = 0.75  # working px between the peaks of the earlier and the later half
APART = 4.0  # working px from the peak, where another would be another answer
MAX_RIVAL = 0.8  # of the peak; real scenes stay below 0.7, repeated patterns reach 0.9
DEADBAND_PX = 1.0  # the estimate's own error; correcting less would only wander
RATE_PX_PER_S = 1.0


class MisalignmentError(FusionError):
    """The images cannot be compared. The message names the cause and the cure."""


@dataclass(frozen=True)
class Misalignment:
    """An estimate that the evidence supports.

    shift_px: (dx, dy), RGB pixels, each within the search range.
    spread_px: how far the left, right, upper or lower half of the picture differs from shift_px, the largest of
        those that can tell. Rotation and scale errors show here, and so does parallax.
    confidence: MIN_CONFIDENCE..1, the share of resampled evidence that supports it.
    stamp_ns: of the newest evidence. span_s: seconds from the oldest to the newest, WINDOW_S / 2..WINDOW_S.

    Convention:
        frame: the RGB image plane, x right, y down.
        direction: where the registered thermal image shows a thing minus where the RGB image shows it. Sampling
            the registered thermal image at u + shift_px for every RGB pixel u removes the misalignment.
    """

    shift_px: tuple[float, float]
    spread_px: float
    confidence: float
    stamp_ns: int
    span_s: float

    @property
    def size_px(self) -> float:
        """Length of the shift."""
        return math.hypot(*self.shift_px)


class MisalignmentMonitor:
    """Collects evidence over WINDOW_S, 6 MB at most. One thread at a time."""

    def __init__(self):
        self._evidence: deque[tuple[int, np.ndarray]] = deque(maxlen=MAX_UPDATES)
        self._alignment: Hashable = None

    def reset(self) -> None:
        """Forget all evidence: it is of another alignment."""
        self._evidence.clear()

    def update(
        self, luma: np.ndarray, thermal: np.ndarray, mask: np.ndarray | None, stamp_ns: int, epoch: Hashable
    ) -> Misalignment | None:
        """The estimate after one more pair of images; None where the evidence supports none.

        luma: (H, W) uint8. thermal: (H, W) uint8, registered on the RGB grid, of a frame that matches in time.
        mask: (H, W) bool, True where a real thermal pixel lies; None means everywhere.
        epoch: whatever changes when older evidence no longer holds: the clock jumped, or thermal is registered
            in another way. A stamp that does not grow, or another image size, starts afresh as well.
        Two to four calls a second are enough, of about 7 ms each on one core.
        Raises MisalignmentError for images that do not fit each other or are too small.
        """
        _check(luma, thermal, mask)
        alignment = epoch, luma.shape
        if alignment != self._alignment or (self._evidence and stamp_ns <= self._evidence[-1][0]):
            self.reset()
        self._alignment = alignment
        self._evidence.append((stamp_ns, correlate(luma, thermal, mask)))
        while stamp_ns - self._evidence[0][0] > WINDOW_S * NS_PER_S:
            self._evidence.popleft()
        span_s = (stamp_ns - self._evidence[0][0]) / NS_PER_S
        if len(self._evidence) < MIN_UPDATES or span_s < WINDOW_S / 2:
            return None
        found = consensus(np.stack([surfaces for _, surfaces in self._evidence]))
        if found is None:
            return None
        shift, spread, confidence = found
        factor = _reduction(luma.shape)
        dx_px, dy_px = (shift * factor).tolist()
        return Misalignment((dx_px, dy_px), spread * factor, confidence, stamp_ns, span_s)


def corrected_shift(
    correction_px: tuple[float, float], misalignment: Misalignment | None, max_px: float
) -> tuple[float, float]:
    """The correction to use from now on: one bounded step against what is misaligned.

    correction_px: (dx, dy) in use; the registered thermal image is sampled at u + correction_px for RGB pixel u.
        Every calibration starts with (0, 0).
    misalignment: what remains with that correction. None, or less than DEADBAND_PX, is not acted upon.
    max_px: the correction is never longer.

    A correction that changed is another registration: give MisalignmentMonitor.update another epoch. The evidence
    is then never older than the last step, so that span_s * RATE_PX_PER_S, the longest step, bounds the rate.
    """
    step_px = 0.0, 0.0
    if misalignment is not None and misalignment.size_px >= DEADBAND_PX:
        step_px = _limited(misalignment.shift_px, RATE_PX_PER_S * misalignment.span_s)
    refined_px = _limited((correction_px[0] + step_px[0], correction_px[1] + step_px[1]), max_px)
    # At its bound it would wander to and fro along it with every estimate.
    if math.dist(refined_px, correction_px) < DEADBAND_PX / 2 and math.hypot(*correction_px) <= max_px:
        return correction_px
    return refined_px


def correlate(luma: np.ndarray, thermal: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """How well the edges of both images agree at each shift, tile by tile.

    Arguments as for MisalignmentMonitor.update.
    Returns (tiles, size, size) float32, size = 2 * REACH + 1, at most 1: at [:, REACH + dy, REACH + dx] for thermal
    content that lies (dx, dy) working px off the RGB content.
    """
    factor = _reduction(luma.shape)
    rgb_edges = edge_directions(_reduced(luma, factor))
    thermal_edges = edge_directions(_reduced(thermal, factor), None if mask is None else _real(mask, factor))
    rows, columns = (
        np.linspace(REACH, length - REACH, count + 1).astype(int)
        for length, count in zip(rgb_edges.shape[:2], TILES, strict=True)
    )
    surfaces = []
    for (y0, y1), (x0, x1) in product(pairwise(rows), pairwise(columns)):
        tile = rgb_edges[y0:y1, x0:x1]
        around = thermal_edges[y0 - REACH : y1 + REACH, x0 - REACH : x1 + REACH]
        surfaces.append(cv2.matchTemplate(around, tile, cv2.TM_CCORR) / (tile.size // 2))
    return np.stack(surfaces)


def consensus(surfaces: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """The shift that all evidence together says, where its parts say the same.

    surfaces: (updates, tiles, size, size) in order of time, two updates or more.
    Returns shift (dx, dy) and spread in working px, as in Misalignment, and confidence; or None.
    """
    middle = len(surfaces) // 2
    early, late = _peaks(np.stack([surfaces[:middle].sum(axis=(0, 1)), surfaces[middle:].sum(axis=(0, 1))]))
    tiles = surfaces.mean(axis=0)
    shift, confidence = _vote(tiles)
    # Written so that NaN, no peak, fails.
    if not (confidence >= MIN_CONFIDENCE and np.hypot(*(late - early)) <= STEADY):
        return None
    if _rival(tiles.sum(axis=0), shift) > MAX_RIVAL:
        return None
    picture = tiles.reshape(*TILES, *tiles.shape[1:])
    y, x = TILES[0] // 2, TILES[1] // 2
    votes = [_vote(part) for part in (picture[:y], picture[y:], picture[:, :x], picture[:, x:])]
    spread = max((np.hypot(*(peak - shift)) for peak, share in votes if share >= MIN_CONFIDENCE), default=0.0)
    return shift, float(spread), confidence


def _vote(tiles: np.ndarray) -> tuple[np.ndarray, float]:
    """(dx, dy) of the peak of the sum over tiles, NaN without one; and the share of resamples within AGREEMENT.

    tiles: (..., size, size).
    """
    size = tiles.shape[-1]
    tiles = tiles.reshape(-1, size * size)
    # Not numpy's product: for this little it would wake BLAS threads on every core.
    weights = _resampling_weights(len(tiles))
    resampled = cv2.gemm(weights, tiles, 1.0, None, 0.0)  # type: ignore[call-overload]  # None: nothing is added
    peak, *peaks = _peaks(np.vstack([tiles.sum(axis=0), resampled]).reshape(-1, size, size))
    return peak, float(np.mean(np.hypot(*(np.stack(peaks) - peak).T) <= AGREEMENT))


def _rival(surface: np.ndarray, peak: np.ndarray) -> float:
    """How high the surface rises apart from the peak, as a share of the peak, both from its median: 0..1."""
    dy, dx = np.indices(surface.shape) - REACH
    apart = np.hypot(dx - peak[0], dy - peak[1]) > APART
    floor = np.median(surface)
    return float((surface[apart].max() - floor) / (surface.max() - floor))


@lru_cache
def _resampling_weights(tiles: int) -> np.ndarray:
    """(RESAMPLES, tiles) float32: how often each resample draws each tile."""
    return np.random.default_rng(0).multinomial(tiles, [1 / tiles] * tiles, RESAMPLES).astype(np.float32)


def _peaks(surfaces: np.ndarray) -> np.ndarray:
    """(N, 2) float: (dx, dy) of each surface's top in working px, to a fraction; NaN where that is at the rim.

    surfaces: (N, size, size).
    """
    size = surfaces.shape[-1]
    rows, columns = np.divmod(surfaces.reshape(len(surfaces), -1).argmax(axis=1), size)
    inside = (np.minimum(rows, columns) > 0) & (np.maximum(rows, columns) < size - 1)
    n, y, x = np.arange(len(surfaces)), np.clip(rows, 1, size - 2), np.clip(columns, 1, size - 2)
    dx = x - REACH + _vertex(surfaces[n, y, x - 1], surfaces[n, y, x], surfaces[n, y, x + 1])
    dy = y - REACH + _vertex(surfaces[n, y - 1, x], surfaces[n, y, x], surfaces[n, y + 1, x])
    return np.where(inside[:, None], np.stack([dx, dy], axis=1), np.nan)


def _vertex(before: np.ndarray, at: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where the parabola through values at -1, 0 and 1, the middle one highest, has its top: -0.5..0.5."""
    return (after - before) / np.maximum(2 * (2 * at - before - after), 1e-12)


def _reduction(shape: tuple[int, int]) -> int:
    return max(1, round(shape[1] / WORKING_WIDTH))


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    h, w = (length // factor for length in pixels.shape)
    return cv2.resize(pixels[: h * factor, : w * factor], (w, h), interpolation=cv2.INTER_AREA)


def _real(mask: np.ndarray, factor: int) -> np.ndarray:
    """(H, W) bool: the reduced pixels that no invented pixel reaches; the frame of the image is none."""
    real = (_reduced(mask.view(np.uint8) * 255, factor) == 255).astype(np.uint8)
    square = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    return cv2.erode(real, square, borderType=cv2.BORDER_CONSTANT, borderValue=1).view(bool)


def _limited(vector_px: tuple[float, float], length_px: float) -> tuple[float, float]:
    scale = min(1.0, length_px / max(math.hypot(*vector_px), 1e-9))
    return vector_px[0] * scale, vector_px[1] * scale


def _check(luma: np.ndarray, thermal: np.ndarray, mask: np.ndarray | None) -> None:
    for name, pixels in (("luma", luma), ("thermal", thermal)):
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise MisalignmentError(f"{name} is {pixels.dtype} of shape {pixels.shape}: give (H, W) uint8")
    if mask is not None and mask.dtype != bool:
        raise MisalignmentError(f"mask is {mask.dtype}: give bool, True where a real thermal pixel lies")
    shapes = [pixels.shape for pixels in (luma, thermal, mask) if pixels is not None]
    if len(set(shapes)) > 1:
        raise MisalignmentError(
            f"luma, thermal and mask are {shapes}: register thermal on the RGB grid first"
        )
    smallest = _reduction(luma.shape) * (2 * REACH + 2 * max(TILES))
    if min(luma.shape) < smallest:
        raise MisalignmentError(f"images are {luma.shape}: both sides need at least {smallest} px")
