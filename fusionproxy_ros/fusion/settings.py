"""The parameters of gain control and of the student."""

import math
from dataclasses import dataclass

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.parameter_declaration import parameter

SMALLEST_SPAN = 0.01  # below every sensor's noise, in counts or kelvin; keeps the gain finite


class NormalisationError(FusionError):
    """A range or AGC setting cannot be used. The message names the cause and the cure."""


@dataclass(frozen=True)
class GainSettings:
    """How thermal counts become grey levels.

    In mode "auto" uint8 is taken as normalised by the camera and passes untouched; uint16 and float32 go through the
    AGC. In mode "fixed" low and high map to 0 and 255 for every dtype; they are counts, or the unit of float pixels.
    min_span_counts (200 is 2 K in centikelvin) and min_span_k (kelvin or Celsius) keep a flat scene from showing
    amplified sensor noise.

    Raises NormalisationError for values that make no sense.
    """

    mode: str = parameter(
        "normalisation.mode",
        "auto",
        "auto: 8-bit thermal as the camera made it, everything else by temporal AGC; fixed: low..high.",
        choices=("auto", "fixed"),
    )
    low: float = parameter(
        "normalisation.low", 28_315.0, "Thermal counts shown as black in fixed mode (10 C in centikelvin)."
    )
    high: float = parameter(
        "normalisation.high", 31_315.0, "Thermal counts shown as white in fixed mode (40 C in centikelvin)."
    )
    time_constant_s: float = parameter(
        "normalisation.time_constant_s",
        1.0,
        "Time in s in which the AGC follows 63 % of a change.",
        limits=(0.01, 600.0),
    )
    min_span_counts: float = parameter(
        "normalisation.min_span_counts",
        200.0,
        "Narrowest AGC window of 16-bit thermal in counts, so that a flat scene's noise is not amplified.",
        limits=(1.0, 65_535.0),
    )
    min_span_k: float = parameter(
        "normalisation.min_span_k", 2.0, "The same for 32FC1 thermal, in kelvin.", limits=(0.001, 1000.0)
    )

    def __post_init__(self):
        if self.mode not in ("auto", "fixed"):
            raise NormalisationError(f'mode is "{self.mode}": set auto or fixed')
        # Each comparison is written so that NaN fails it.
        if not self.high - self.low >= SMALLEST_SPAN or not math.isfinite(self.high - self.low):
            raise NormalisationError(
                f"low is {self.low} and high is {self.high}: set low below high, in counts"
            )
        if not self.time_constant_s > 0:
            raise NormalisationError(f"time_constant_s is {self.time_constant_s}: set seconds above 0")
        for name in ("min_span_counts", "min_span_k"):
            if not SMALLEST_SPAN <= getattr(self, name) < math.inf:
                raise NormalisationError(f"{name} is {getattr(self, name)}: set at least {SMALLEST_SPAN}")


@dataclass(frozen=True)
class StudentSettings:
    """Which network fuses, and on what."""

    path: str = parameter("student.path", "", "Checkpoint (.safetensors); empty: the shipped student.")
    device: str = parameter(
        "student.device", "auto", "auto takes CUDA where there is one.", choices=("auto", "cpu", "cuda")
    )
    threads: int = parameter(
        "student.threads",
        2,
        "CPU threads of the student; more than the free cores makes it slower.",
        limits=(1, 64),
    )
