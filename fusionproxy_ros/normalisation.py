"""Thermal counts to the student's 8-bit input plane: a fixed range, or a temporal AGC with explicit state.

There is no clock here: time is the thermal frames' stamps, so a bag gives the same pixels as the live camera.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fusionproxy_ros.frames import NS_PER_S, FusionError

MAX_SAMPLES = 40_000  # pixels the AGC looks at; the percentiles of a frame need no more
LARGEST_VALUE = 1e6  # of float pixels, kelvin, Celsius or counts; beyond lie marks such as the largest float
SMALLEST_SPAN = 0.01  # below every sensor's noise, in counts or kelvin; keeps the gain finite


class NormalisationError(FusionError):
    """A range or AGC setting cannot be used. The message names the cause and the cure."""


@dataclass(frozen=True)
class NormalisationConfig:
    """How counts become grey levels.

    mode: "auto": uint8 is taken as normalised by the camera and passes untouched, uint16 and float32 go
        through the AGC. "fixed": `low` and `high` map to 0 and 255 for every dtype.
    low, high: counts (or the unit of float pixels), used by "fixed" only.
    low_percentile, high_percentile: 0..100, of the valid pixels. The upper one is 99.9 and not 99 because a
        person 30 m away covers about 0.1 % of a 640x480 image: at 99 all people in a scene could be clipped
        to one flat white, at 99.9 only dead pixels and glints are. Below, 1 % of cold sky may clip unharmed.
    time_constant_s: seconds, after which 63 % of a change in the scene's range is followed.
    min_span_counts, min_span_k: the range never gets narrower than this, so that a flat scene does not show
        amplified sensor noise; counts for uint16 (200 is 2 K in centikelvin), kelvin or Celsius for float32.

    Raises NormalisationError for values that make no sense.
    """

    mode: str = "auto"
    low: float = 0.0
    high: float = 65535.0
    low_percentile: float = 1.0
    high_percentile: float = 99.9
    time_constant_s: float = 1.0
    min_span_counts: float = 200.0
    min_span_k: float = 2.0

    def __post_init__(self):
        if self.mode not in ("auto", "fixed"):
            raise NormalisationError(f'mode is "{self.mode}": set auto or fixed')
        # Each comparison is written so that NaN fails it.
        if not self.high - self.low >= SMALLEST_SPAN or not math.isfinite(self.high - self.low):
            raise NormalisationError(
                f"low is {self.low} and high is {self.high}: set low below high, in counts"
            )
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            raise NormalisationError(
                f"low_percentile is {self.low_percentile} and high_percentile is {self.high_percentile}: "
                "set 0 <= low_percentile < high_percentile <= 100"
            )
        if not self.time_constant_s > 0:
            raise NormalisationError(f"time_constant_s is {self.time_constant_s}: set seconds above 0")
        for name in ("min_span_counts", "min_span_k"):
            if not SMALLEST_SPAN <= getattr(self, name) < math.inf:
                raise NormalisationError(f"{name} is {getattr(self, name)}: set at least {SMALLEST_SPAN}")


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
    config: NormalisationConfig,
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

    def __init__(self, config: NormalisationConfig):
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


def _measure(
    pixels: np.ndarray, mask: np.ndarray | None, config: NormalisationConfig
) -> tuple[float, float] | None:
    """The frame's range: percentiles (nearest rank), at least the minimal span wide."""
    sample = pixels.ravel() if mask is None else pixels[mask]
    min_span = config.min_span_counts
    if sample.dtype == np.float32:
        sample = sample[np.abs(sample) <= LARGEST_VALUE]  # NaN is not
        min_span = config.min_span_k
    if not sample.size:
        return None
    ranks = [round(p / 100 * (sample.size - 1)) for p in (config.low_percentile, config.high_percentile)]
    low, high = np.partition(sample, ranks)[ranks].astype(np.float64).tolist()
    widen = max(0.0, min_span - (high - low)) / 2
    return low - widen, high + widen
