"""Is a thermal frame a new look at the scene, or does the camera repeat itself or look at its shutter?

Uncooled cameras close a shutter every few minutes to correct themselves (NUC): for some tenths of a second they
repeat the last image, bit for bit, or show the shutter, which is nothing but noise. A hung driver repeats for ever.
"""

import numpy as np

from fusionproxy_ros.core.frames import NS_PER_S, Frame

# The 1st to the 99th percentile of a frame, over the median difference of neighbouring pixels: about 5 for noise of any
# strength, 3 for random bytes; at least 29 in 441 thermal pictures of roads (MSRS, RoadScene, M3SVD, M3FD).
LEAST_STRUCTURE = 10.0
SAMPLE_STEP = 4  # rows and, for the percentiles, columns


class FrozenThermalDetector:
    """Knows the image that repeats, and whether the camera ever showed a scene. For one thread at a time."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._image: np.ndarray | None = None
        self._image_since_ns = self._last_ns = 0
        # A simulated camera may be flat from the start, and that is all it sees.
        self._has_shown_a_scene = False

    def check(self, frame: Frame, frozen_after_ns: int) -> str:
        """Why this frame shows nothing new; empty when it does.

        frame: (H, W) uint8, uint16 or float32. With a stamp before that of the last one, as where a bag begins anew,
            what came before is forgotten.
        frozen_after_ns: for how long repeated images still count; a 9 Hz camera behind a 30 Hz driver repeats too.
        """
        if frame.stamp_ns < self._last_ns:
            self._forget()
        self._last_ns = frame.stamp_ns
        if self._image is None or not _same(self._image, frame.pixels):
            self._image, self._image_since_ns = frame.pixels, frame.stamp_ns
        repeated_ns = frame.stamp_ns - self._image_since_ns
        if repeated_ns > frozen_after_ns:
            return f"thermal is frozen: the same image for {repeated_ns / NS_PER_S:.1f} s"
        shows_a_scene = _structure(frame.pixels) >= LEAST_STRUCTURE
        self._has_shown_a_scene |= shows_a_scene
        if self._has_shown_a_scene and not shows_a_scene:
            return "thermal is flat or noise: the camera looks at its shutter, is covered, or sends garbage"
        return ""


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (
        a.view(np.uint8),
        b.view(np.uint8),
    )  # NaN, where a driver marks bad pixels, equals itself bit for bit
    few = np.s_[::37, ::41]  # they tell live images apart
    return np.array_equal(a[few], b[few]) and np.array_equal(a, b)


def _structure(pixels: np.ndarray) -> float:
    """See LEAST_STRUCTURE; pixels that are not finite do not count."""
    rows = pixels[::SAMPLE_STEP].astype(np.float32)
    sample = rows[:, ::SAMPLE_STEP].ravel()
    steps = np.abs(np.diff(rows, axis=1)).ravel()[::SAMPLE_STEP]
    sample, steps = sample[np.isfinite(sample)], steps[np.isfinite(steps)]
    if not steps.size:
        return 0.0
    ranks = [round(share * (sample.size - 1)) for share in (0.01, 0.99)]
    low, high = np.partition(sample, ranks)[ranks].astype(np.float64)
    smallest = 0.5 if pixels.dtype != np.float32 else 1e-3  # of a camera without noise, in counts or kelvin
    return (high - low) / max(float(np.median(steps)), smallest)
