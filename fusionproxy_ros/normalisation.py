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


@dataclass(frozen=True, eq=False)
class Normalised:
    """pixels: (H, W) uint8, 0..255. low, high: counts that map to 0 and 255; both 0 while none are known."""

    pixels: np.ndarray
    low: float
    high: float


def agc_step(
    state: AgcState | None,
    pixels: np.ndarray,
    mask: np.ndarray | None,
    stamp_ns: int,
    config: NormalisationConfig,
) -> AgcState | None:
    """The AGC's state after one more frame.

    pixels: (H, W) uint16 or float32. mask: (H, W) bool, True where pixels are real; None means everywhere.
    NaN and infinity do not count.

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

    pixels: (H, W) uint8, uint16 or float32. high - low: at least SMALLEST_SPAN.
    Returns (H, W) uint8. Monotonic up to infinity; NaN becomes 0, the coldest.
    """
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

    def normalise(self, pixels: np.ndarray, mask: np.ndarray | None, stamp_ns: int, epoch: int) -> Normalised:
        """Grey levels of one thermal frame, on whatever grid.

        pixels: (H, W) uint8, uint16 or float32. mask: (H, W) bool or None, as in `agc_step`.
        stamp_ns: of the thermal frame. epoch: the AGC starts afresh when it changes.
        Before any valid pixel has been seen the result is all 0 with the range (0, 0).
        """
        if self.config.mode == "fixed":
            low, high = self.config.low, self.config.high
        elif pixels.dtype == np.uint8:
            return Normalised(pixels, 0.0, 255.0)
        else:
            previous = self.state if epoch == self._epoch else None
            self.state = agc_step(previous, pixels, mask, stamp_ns, self.config)
            self._epoch = epoch
            if self.state is None:
                return Normalised(np.zeros(pixels.shape, np.uint8), 0.0, 0.0)
            low, high = self.state.low, self.state.high
        return Normalised(to_uint8(pixels, low, high), low, high)


def _measure(
    pixels: np.ndarray, mask: np.ndarray | None, config: NormalisationConfig
) -> tuple[float, float] | None:
    """The frame's range: percentiles (nearest rank) of a regular sample, at least the minimal span wide."""
    step = math.ceil(math.sqrt(pixels.size / MAX_SAMPLES))
    sample = pixels[::step, ::step]
    sample = sample.ravel() if mask is None else sample[mask[::step, ::step]]
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
