"""Thermal counts to the student's 8-bit input plane: a fixed range, or a temporal AGC with explicit state.

There is no clock here: time is the thermal frames' stamps, so a bag gives the same pixels as the live camera.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.core.frames import NS_PER_S
from fusionproxy_ros.fusion.settings import GainSettings

MAX_SAMPLES = 40_000  # pixels the AGC looks at; the percentiles of a frame need no more
LARGEST_VALUE = 1e6  # of float pixels, kelvin, Celsius or counts; beyond lie marks such as the largest float

# Of the valid pixels. Below, 1 % of cold sky may clip unharmed. Above it is 99.9 and not 99, because a person 30 m away
# covers about 0.1 % of a 640x480 image: at 99 all people of a scene could be clipped to one flat white.
PERCENTILES = 1.0, 99.9


@dataclass(frozen=True)
class AgcState:
    """The range in use, in counts, and the stamp of the frame that last moved it."""

    low: float
    high: float
    stamp_ns: int


def sample_step(pixels: int) -> int:
    """The AGC looks at every step-th row and column of a frame of so many pixels."""
    return math.ceil(math.sqrt(pixels / MAX_SAMPLES))


def agc_step(
    state: AgcState | None,
    pixels: np.ndarray,
    mask: np.ndarray | None,
    stamp_ns: int,
    config: GainSettings,
) -> AgcState | None:
    """The AGC's state after one more frame.

    pixels: (H, W) uint16 or float32, a regular sample of the frame. mask: (H, W) bool, True where pixels are real;
    None means everywhere. NaN and infinity do not count.

    Exponential smoothing in stamp time, 1 - exp(-dt / time_constant_s), so that cameras of any rate settle
    alike. The first frame, one whose stamp goes back, and one whose range has nothing in common with the state's
    (the camera changed its level after a shutter event) is taken at once. A frame seen before (same stamp),
    or one without a valid pixel, leaves the state as it is.
    """
    if state is not None and stamp_ns == state.stamp_ns:
        return state
    measured = _measure(pixels, mask, config)
    if measured is None:
        return state
    low, high = measured
    if state is None or stamp_ns < state.stamp_ns or low > state.high or high < state.low:
        return AgcState(low, high, stamp_ns)
    share = -math.expm1(-(stamp_ns - state.stamp_ns) / NS_PER_S / config.time_constant_s)
    return AgcState(state.low + share * (low - state.low), state.high + share * (high - state.high), stamp_ns)


def to_uint8(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high linearly to 0..255, rounded and clipped.

    pixels: (H, W) uint8, uint16 or float32. high - low: at least SMALLEST_SPAN; all is 0 where both are equal.
    Returns (H, W) uint8, `pixels` itself where nothing changes. Monotonic up to infinity; NaN becomes 0, the coldest.
    """
    if high == low:
        return np.zeros(pixels.shape, np.uint8)
    if pixels.dtype == np.uint8 and (low, high) == (0, 255):
        return pixels
    # Float for every dtype: clipping first keeps cv2's conversion from wrapping at the range of int32, and
    # subtracting before scaling keeps full precision far from zero, so that equal counts give equal grey.
    grey = pixels.astype(np.float32)
    np.clip(grey, low, high, out=grey)
    grey -= low
    cv2.patchNaNs(grey, 0.0)
    return cv2.convertScaleAbs(grey, alpha=255.0 / (high - low))


class Normaliser:
    """Holds the AGC state of one thermal stream."""

    def __init__(self, config: GainSettings):
        self.config = config
        self.state: AgcState | None = None
        self._epoch = 0

    def follow(
        self, sample: np.ndarray, mask: np.ndarray | None, stamp_ns: int, epoch: int
    ) -> tuple[float, float]:
        """(low, high): the counts of one thermal frame that become 0 and 255.

        sample: (H, W) uint8, uint16 or float32, every `sample_step`-th row and column of the frame, on whatever grid.
        mask: (H, W) bool or None, as in `agc_step`. stamp_ns: of the thermal frame. epoch: the AGC starts afresh when
        it changes. (0, 0) before any valid pixel has been seen.
        """
        if self.config.mode == "fixed":
            return self.config.low, self.config.high
        if sample.dtype == np.uint8:
            return 0.0, 255.0
        previous = self.state if epoch == self._epoch else None
        self.state = agc_step(previous, sample, mask, stamp_ns, self.config)
        self._epoch = epoch
        return (self.state.low, self.state.high) if self.state else (0.0, 0.0)


def _measure(pixels: np.ndarray, mask: np.ndarray | None, config: GainSettings) -> tuple[float, float] | None:
    """The frame's range: percentiles (nearest rank), at least the minimal span wide."""
    sample = pixels.ravel() if mask is None else pixels[mask]
    min_span = config.min_span_counts
    if sample.dtype == np.float32:
        sample = sample[np.abs(sample) <= LARGEST_VALUE]  # NaN is not
        min_span = config.min_span_k
    if not sample.size:
        return None
    ranks = [round(p / 100 * (sample.size - 1)) for p in PERCENTILES]
    low, high = np.partition(sample, ranks)[ranks].astype(np.float64).tolist()
    widen = max(0.0, min_span - (high - low)) / 2
    return low - widen, high + widen
