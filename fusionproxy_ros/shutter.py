"""Is a thermal frame a new look at the scene, or does the camera repeat itself or look at its shutter?

Uncooled cameras close a shutter every few minutes to correct themselves (NUC): for some tenths of a second they
repeat the last image, bit for bit, or show the shutter, which is flat. A hung driver repeats for ever.
"""

import numpy as np

from fusionproxy_ros.frames import NS_PER_S, Frame

FLAT_SHARE = 0.1  # of the usual span of counts; no scene loses nine tenths of its contrast between two frames
FLAT_MAX_NS = 5 * NS_PER_S  # and stays so: after that it is the scene after all
FOLLOW = 0.1  # share by which the usual span follows each frame
SAMPLE_STEP = 8  # pixels; percentiles need no more


class ShutterGate:
    """Explicit state: the image that repeats, and the usual span of counts. Time is the frames' stamps."""

    def __init__(self):
        self._image: np.ndarray | None = None
        self._image_since_ns = 0
        self._span: float | None = None
        self._flat_since_ns: int | None = None

    def check(self, frame: Frame, frozen_after_ns: int) -> str:
        """Why this frame shows nothing new; empty when it does.

        frame: (H, W) uint8, uint16 or float32, later than the one before.
        frozen_after_ns: for how long repeated images still count; a 9 Hz camera behind a 30 Hz driver repeats too.
        """
        if self._image is None or not _same(self._image, frame.pixels):
            self._image, self._image_since_ns = frame.pixels, frame.stamp_ns
        repeated_ns = frame.stamp_ns - self._image_since_ns
        if repeated_ns > frozen_after_ns:
            return f"thermal is frozen: the same image for {repeated_ns / NS_PER_S:.1f} s"
        if self._is_flat(frame):
            return "thermal is flat: the camera looks at its shutter or is covered"
        return ""

    def _is_flat(self, frame: Frame) -> bool:
        span = _span(frame.pixels)
        if self._span is None:
            self._span = span
        if span >= FLAT_SHARE * self._span:
            self._flat_since_ns = None
            self._span += FOLLOW * (span - self._span)
            return False
        if self._flat_since_ns is None:
            self._flat_since_ns = frame.stamp_ns
        if frame.stamp_ns - self._flat_since_ns > FLAT_MAX_NS:
            self._span = span
        return True


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (
        a.view(np.uint8),
        b.view(np.uint8),
    )  # NaN, where a driver marks bad pixels, equals itself bit for bit
    return bool((a[::37, ::41] == b[::37, ::41]).all()) and np.array_equal(a, b)  # few tell live images apart


def _span(pixels: np.ndarray) -> float:
    """Counts between the 1st and the 99th percentile of the finite pixels."""
    sample = pixels[::SAMPLE_STEP, ::SAMPLE_STEP].ravel()
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0
    ranks = [round(share * (sample.size - 1)) for share in (0.01, 0.99)]
    low, high = np.partition(sample, ranks)[ranks].astype(np.float64)
    return high - low
