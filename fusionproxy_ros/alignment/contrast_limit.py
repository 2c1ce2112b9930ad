"""How much of its contrast thermal shows: all of it, but where it lies beside RGB and would outshine it.

Thermal that is misaligned doubles edges, and where it has more contrast than RGB, in haze, the double outshines the
original. A network that sees a neighbourhood cannot tell thermal that lies beside RGB from thermal that shows what RGB
does not; a whole picture can. Where the cameras are aligned, edges agree in direction (edges.py) better without
a shift than with others; where they do not, although RGB has clear edges, thermal's strongest edges are brought down to
the strength of RGB's. In the dark and in fog RGB has none to double, and thermal stays as it is.

There is no clock here: time is the frames' stamps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.alignment.edges import edge_directions
from fusionproxy_ros.core.frames import NS_PER_S

COMPARED_PX = 10  # of the sample; shifts of so much in each direction are compared
NEAR = 1  # px of the sample; by so little aligned pictures are off
# How much better edges agree without a shift than with others, -1..1. Aligned pairs of four public sets have 0.10 and
# more, 99 of 100 that are 30 px and 10 degrees off less than 0.09.
BESIDE, ALIGNED = 0.08, 0.12
# Mean square of RGB's edge field; with less than the first it has no edges to double.
UNCLEAR, CLEAR = 0.03, 0.05
STRONG_SHARE = 0.05  # of a picture's pixels are its strong edges
LEAST_CONTRAST = 0.5  # of what is held down, so that a wrong answer hides nobody
LOOK_PERIOD_S = 0.5
RATE_PER_S = 0.5  # of the contrast, so that nobody sees it change


@dataclass(frozen=True)
class LimitState:
    """contrast: of the last frame. target: where it goes. looked_ns, stamp_ns: of the last look and the last frame."""

    contrast: float
    target: float
    looked_ns: int
    stamp_ns: int


class ContrastLimit:
    """Follows one camera pair."""

    def __init__(self):
        self.state: LimitState | None = None
        self._epoch = 0

    def follow(self, look: Callable[[], float], stamp_ns: int, epoch: int) -> float:
        """How much of its contrast thermal shows in one frame, LEAST_CONTRAST..1.

        look: `tolerated_contrast` of the frame, called every LOOK_PERIOD_S. stamp_ns: of the frame. epoch: what it
        says is taken at once when this changes, and for the first frame; else approached by RATE_PER_S.
        """
        state = self.state if epoch == self._epoch else None
        self._epoch = epoch
        if state is None:
            contrast = target = look()
            looked_ns = stamp_ns
        else:
            target, looked_ns = state.target, state.looked_ns
            if abs(stamp_ns - looked_ns) >= LOOK_PERIOD_S * NS_PER_S:
                target, looked_ns = look(), stamp_ns
            step = RATE_PER_S * abs(stamp_ns - state.stamp_ns) / NS_PER_S
            contrast = state.contrast + min(max(target - state.contrast, -step), step)
        self.state = LimitState(contrast, target, looked_ns, stamp_ns)
        return contrast


def tolerated_contrast(luma: np.ndarray, thermal: np.ndarray, real: np.ndarray | None = None) -> float:
    """How much of its contrast thermal may show beside `luma`, LEAST_CONTRAST..1.

    luma, thermal: (H, W) uint8, a regular sample of RGB's luma and of registered thermal in grey levels, about 200 px
    wide. real: (H, W) bool, True where a real thermal pixel lies; None means everywhere.
    """
    if min(luma.shape) < 4 * COMPARED_PX:  # too small to tell
        return 1.0
    luma, thermal = np.ascontiguousarray(luma), np.ascontiguousarray(thermal)
    if real is not None:
        real = cv2.erode(real.view(np.uint8), np.ones((5, 5), np.uint8), borderValue=0).view(bool)
        if real.sum() < (4 * COMPARED_PX) ** 2:
            return 1.0
    strength = _strength(luma, real) / max(_strength(thermal, real), 1e-6)
    if strength >= 1:
        return 1.0
    agreement, clarity = _agreement(luma, thermal, real)
    blame = np.interp(agreement, (BESIDE, ALIGNED), (1, 0)) * np.interp(clarity, (UNCLEAR, CLEAR), (0, 1))
    return float(1 - blame * (1 - max(strength, LEAST_CONTRAST)))


def with_contrast(low: float, high: float, contrast: float) -> tuple[float, float]:
    """The range of counts, shown as 0..255, that shows `contrast` times as much of it as low..high does."""
    if contrast == 1:
        return low, high
    middle, half = (low + high) / 2, (high - low) / 2 / contrast
    return middle - half, middle + half


def _agreement(luma: np.ndarray, thermal: np.ndarray, real: np.ndarray | None) -> tuple[float, float]:
    """How much better the pictures' edges agree without a shift than with others, and how clear RGB's are."""
    rgb_edges, thermal_edges = edge_directions(luma, real), edge_directions(thermal, real)
    inner = slice(COMPARED_PX, -COMPARED_PX), slice(COMPARED_PX, -COMPARED_PX)
    tile = np.ascontiguousarray(rgb_edges[inner])
    surface = cv2.matchTemplate(thermal_edges, tile, cv2.TM_CCORR)
    dy, dx = np.abs(np.indices(surface.shape) - COMPARED_PX)
    near = np.maximum(dx, dy) <= NEAR
    far = np.maximum(dx, dy) > 2 * NEAR
    whole = np.linalg.norm(tile) * np.linalg.norm(thermal_edges[inner])
    agreement = (surface[near].max() - surface[far].mean()) / max(whole, 1e-6)
    return float(agreement), float((rgb_edges**2).sum(axis=2).mean(where=True if real is None else real))


def _strength(pixels: np.ndarray, real: np.ndarray | None) -> float:
    """Mean gradient of the strongest STRONG_SHARE of the real pixels, Sobel's."""
    gradient = cv2.magnitude(cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1))
    gradient = gradient.ravel() if real is None else gradient[real]
    strong = max(1, round(STRONG_SHARE * gradient.size))
    return float(np.partition(gradient, -strong)[-strong:].mean())
