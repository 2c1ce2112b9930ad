"""The frozen dataclasses that travel from the cameras to the fused image."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

NS_PER_S = 1_000_000_000


class FusionError(Exception):
    """Base of every error this package raises on purpose. The message names the cause and the cure."""


class RegistrationError(FusionError):
    """The thermal image cannot be moved onto the RGB grid. The message names the cause and the cure."""


def shown(text: str) -> str:
    """What somebody else wrote, as a reason or a log may show it: one short line without control characters."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")[1:-1]


class Mode(IntEnum):
    """How much thermal information an output frame carries. Values equal those in FusionStatus.msg."""

    FUSED = 0  # thermal frame within sync_tolerance_s of the RGB frame
    HELD = 1  # the last thermal frame, at most max_hold_s old
    PASSTHROUGH = 2  # RGB unchanged


# Of every FusionStatus.mode: those of outputs, then those of RGB messages that got none.
MODES = (*Mode.__members__, "REFUSED", "DROPPED")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image with the header it came with.

    stamp_ns: integer nanoseconds since the epoch of the camera's clock.
    pixels: (H, W, 3) uint8 for colour (channel order as `encoding` says: "rgb8" or "bgr8"), or
        (H, W) uint8 ("mono8"), uint16 ("mono16") or float32 ("32FC1") for one channel; C-contiguous.
    arrival_ns: monotonic time at which the frame reached this process; 0 where nobody waits for it (offline).
    source: what the front door took it from (a ROS message, a path); the core never looks at it.
    """

    stamp_ns: int
    frame_id: str
    pixels: np.ndarray
    encoding: str
    arrival_ns: int = 0
    source: object = None

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
class Camera:
    """Intrinsics of one camera, as in sensor_msgs/CameraInfo.

    width_px, height_px: the image size the intrinsics hold for.
    k: (3, 3) float64 pinhole matrix, pixels. Pixel centres are at integer coordinates (OpenCV, ROS).
    distortion_model: "plumb_bob" (4 or 5 coefficients), "rational_polynomial" (8, 12 or 14) or "equidistant" (4).
    d: float64 coefficients in OpenCV's order; all zero or empty means none.
    """

    width_px: int
    height_px: int
    k: np.ndarray
    distortion_model: str = "plumb_bob"
    d: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Both cameras and the rigid motion between them.

    Convention: p_thermal = rotation @ p_rgb + translation_m, both in optical frames (x right, y down, z forward).
    rotation: (3, 3) float64, orthonormal, det +1. translation_m: (3,) float64, metres.
    """

    rgb: Camera
    thermal: Camera
    rotation: np.ndarray
    translation_m: np.ndarray


@dataclass(frozen=True, eq=False)
class Fused:
    """The fuser's answer to one Pair.

    pixels: (H, W, 3) uint8 in the RGB frame's channel order; the RGB frame's own pixels in PASSTHROUGH.
    thermal: (H, W) uint8, thermal on the RGB grid after normalisation; None in PASSTHROUGH.
    mask: (H, W) bool, where `thermal` is real; None where it is real everywhere.
    valid_fraction: share of RGB pixels that a thermal pixel covers, 0..1.
    thermal_range: (low, high) in thermal counts that map to 0 and 1.
    thermal_contrast: what share of its contrast thermal shows (restraint.py), 0..1; it is in thermal_range already.
    register_ns, normalise_ns, student_ns: time spent in each stage.
    """

    pixels: np.ndarray
    mode: Mode
    reason: str = ""
    thermal: np.ndarray | None = None
    mask: np.ndarray | None = None
    valid_fraction: float = 0.0
    thermal_range: tuple[float, float] = (0.0, 0.0)
    thermal_contrast: float = 1.0
    register_ns: int = 0
    normalise_ns: int = 0
    student_ns: int = 0
