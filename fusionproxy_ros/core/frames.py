"""The frozen dataclasses that travel from the cameras to the fused image."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

NS_PER_S = 1_000_000_000


class Mode(IntEnum):
    """What became of an RGB message. Values equal those in FusionStatus.msg; the first three are of outputs."""

    FUSED = 0  # thermal frame within sync_tolerance_s of the RGB frame
    HELD = 1  # the last thermal frame, at most max_hold_s old
    PASSTHROUGH = 2  # RGB unchanged
    REFUSED = 3  # the message cannot be read: no output
    DROPPED = 4  # overload: no output


MODES = tuple(Mode.__members__)  # their names, by value
OUTPUT_MODES = Mode.FUSED, Mode.HELD, Mode.PASSTHROUGH


@dataclass(frozen=True, eq=False)
class Frame:
    """One image with the header it came with.

    stamp_ns: integer nanoseconds since the epoch of the camera's clock.
    pixels: (H, W, 3) uint8 for colour (channel order as `encoding` says: "rgb8" or "bgr8"), or
        (H, W) uint8 ("mono8"), uint16 ("mono16") or float32 ("32FC1") for one channel; C-contiguous.
    arrival_ns: monotonic time at which the frame reached this process; 0 where nobody waits for it (offline).
    source: the message or file that it was made of. The core looks at its header only; RGB that passes
        is published as the message that it was.
    """

    stamp_ns: int
    frame_id: str
    pixels: np.ndarray
    encoding: str
    arrival_ns: int = 0
    source: Any = None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True, eq=False)
class Pair:
    """One RGB frame and the thermal frame chosen for it, or why there is none.

    skew_ns: thermal.stamp_ns - (rgb.stamp_ns + thermal_time_offset); 0 without thermal.
    thermal_age_ns: rgb.stamp_ns + thermal_time_offset - the newest thermal stamp; None before the first.
    depth: of the RGB pixels, float32 metres ("32FC1"), or None where there is none near enough in time.
    epoch: grows by one at every clock jump; state that integrates over time starts afresh when it changes.
    """

    rgb: Frame
    thermal: Frame | None
    mode: Mode
    reason: str = ""
    skew_ns: int = 0
    thermal_age_ns: int | None = None
    depth: Frame | None = None
    epoch: int = 0
    ready_ns: int = 0  # monotonic time of the decision


@dataclass(frozen=True, eq=False)
class Picture:
    """A fused picture and how it was made.

    pixels: (H, W, 3) uint8 in the RGB frame's channel order.
    thermal: (H, W) uint8, thermal on the RGB grid in grey levels.
    mask: (H, W) bool, where `thermal` is real; None where it is real everywhere.
    valid_fraction: share of RGB pixels that a thermal pixel covers, 0..1.
    thermal_range: (low, high) in thermal counts that map to 0 and 1.
    thermal_contrast: what share of its contrast thermal shows (alignment/contrast_limit.py), 0..1; it is in
        thermal_range already.
    register_ns, normalise_ns, student_ns: time spent in each stage.
    """

    pixels: np.ndarray
    thermal: np.ndarray | None = None
    mask: np.ndarray | None = None
    valid_fraction: float = 0.0
    thermal_range: tuple[float, float] = (0.0, 0.0)
    thermal_contrast: float = 1.0
    register_ns: int = 0
    normalise_ns: int = 0
    student_ns: int = 0


@dataclass(frozen=True, eq=False)
class Fused(Picture):
    """The answer to one Pair, made by pipeline/answers.py only.

    In PASSTHROUGH `pixels` are the RGB frame's own, and `thermal` is None. reason: why thermal is not used, or used
    less well than it could be; empty when all is well.
    """

    mode: Mode = Mode.PASSTHROUGH
    reason: str = ""
