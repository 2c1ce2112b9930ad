"""Composes registration, gain control, contrast limit and student on one device: a pair in, a picture out."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fusionproxy_ros.alignment.contrast_limit import ContrastLimit, tolerated_contrast, with_contrast
from fusionproxy_ros.core.errors import RegistrationError
from fusionproxy_ros.core.frames import Frame, Mode, Pair, Picture
from fusionproxy_ros.core.pictures import luma_of
from fusionproxy_ros.fusion.cpu import NativeError, NativeStudent
from fusionproxy_ros.fusion.devices import DeviceError, pick_device
from fusionproxy_ros.fusion.gain_control import Normaliser, sample_step, to_uint8
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import Weights
from fusionproxy_ros.geometry.registration import Registered, Registration, identity

if TYPE_CHECKING:
    from fusionproxy_ros.fusion.gpu import DeviceFuser
    from fusionproxy_ros.fusion.network import TorchStudent


@dataclass(frozen=True, eq=False)
class PreparedThermal:
    """A thermal image after registration and gain control.

    range: (low, high), counts that become 0 and 255. contrast: what share of its contrast is shown, 0..1; it is in
    `range` already. pixels: (H, W) uint8, grey levels on the RGB grid; None on a GPU, which makes them later.
    """

    registered: Registered
    range: tuple[float, float]
    contrast: float
    pixels: np.ndarray | None
    register_ns: int
    normalise_ns: int


class Fuser:
    """Owns the student and the state of AGC and contrast limit. One thread at a time, but for `finish`.

    Where thermal lies, and which range of its counts is shown, is worked out on the CPU on every device: both look at
    a sample of the registered counts, in the order of the frames. All that touches every pixel runs on the CPU, the
    student by compiled code (by torch where that is not installed); or on a GPU as one CUDA graph, the network in half
    precision: the same picture to one grey level. torch is imported for a GPU or in place of the compiled code alone.

    threads: of the CPU, for the student. warn: told when the compiled code is missing, and as of DeviceFuser.
    """

    def __init__(
        self,
        student: Weights,
        normalisation: GainSettings,
        device: str = "auto",
        threads: int = 2,
        warn: Callable[[str], None] = warnings.warn,
    ):
        self.device = pick_device(device, warn)
        self._threads = threads
        self._gpu: DeviceFuser | None = None
        self._cpu: NativeStudent | TorchStudent | None = None
        if self.device == "cuda":
            from fusionproxy_ros.fusion import gpu, network

            self._gpu = gpu.DeviceFuser(network.student_of(student), self.device, warn=warn)
        else:
            self._cpu = _cpu_student(student, warn)
        self._normaliser, self._contrast_limit = Normaliser(normalisation), ContrastLimit()

    def warm_up(self, size_px: tuple[int, int] = (640, 480)) -> None:
        """Pay for lazy initialisation before the first frame does."""
        dark = np.zeros(size_px[::-1], np.uint8)
        pair = Pair(Frame(0, "", np.dstack([dark] * 3), "rgb8"), Frame(0, "", dark, "mono8"), Mode.FUSED)
        for _ in range(3):
            self.fuse(pair, identity())
        self._contrast_limit = ContrastLimit()  # the first frame is still to come

    def fuse(self, pair: Pair, registration: Registration) -> Picture:
        """The fused picture of one pair that has a thermal frame. Raises RegistrationError, see `prepare`."""
        return self.finish(pair.rgb, self.prepare(pair, registration))

    def prepare(self, pair: Pair, registration: Registration) -> PreparedThermal:
        """The part of `fuse` that depends on the pairs before it: call it in their order.

        Raises RegistrationError when the images do not fit the calibration, or thermal reaches no RGB pixel.
        """
        assert pair.thermal is not None
        start_ns = time.monotonic_ns()
        depth_m = pair.depth.pixels if pair.depth else None
        registered = registration.register(pair.thermal.pixels, pair.rgb.size_px, depth_m)
        if not registered.valid_fraction:
            raise RegistrationError("the thermal camera sees nothing of the RGB picture: calibrate")
        step = sample_step(math.prod(pair.rgb.size_px))
        sample = registered.sample(step) if self._gpu else registered.pixels[::step, ::step]
        registered_ns = time.monotonic_ns()
        seen = None if registered.mask is None else registered.mask[::step, ::step]
        agc_range = self._normaliser.follow(sample, seen, pair.thermal.stamp_ns, pair.epoch)

        def look() -> float:
            luma = luma_of(replace(pair.rgb, pixels=pair.rgb.pixels[::step, ::step]))
            return tolerated_contrast(luma, to_uint8(sample, *agc_range), seen)

        contrast = self._contrast_limit.follow(look, pair.rgb.stamp_ns, pair.epoch)
        shown_range = with_contrast(*agc_range, contrast)
        pixels = None if self._gpu else to_uint8(registered.pixels, *shown_range)
        times_ns = registered_ns - start_ns, time.monotonic_ns() - registered_ns
        return PreparedThermal(registered, shown_range, contrast, pixels, *times_ns)

    def finish(self, rgb: Frame, thermal: PreparedThermal) -> Picture:
        """The rest of `fuse`, in any order and from any thread."""
        start_ns, registered = time.monotonic_ns(), thermal.registered
        grey = thermal.pixels
        if self._gpu:
            pixels, grey = self._gpu.fuse(rgb, registered, thermal.range)
        else:
            pixels = self._on_cpu(rgb, registered, grey)
        return Picture(
            pixels=pixels,
            thermal=grey,
            mask=registered.mask,
            valid_fraction=registered.valid_fraction,
            thermal_range=thermal.range,
            thermal_contrast=thermal.contrast,
            register_ns=thermal.register_ns,
            normalise_ns=thermal.normalise_ns,
            student_ns=time.monotonic_ns() - start_ns,
        )

    def _on_cpu(self, rgb: Frame, registered: Registered, thermal: np.ndarray | None) -> np.ndarray:
        assert self._cpu is not None and thermal is not None
        return self._cpu.fuse(luma_of(rgb), thermal, registered.weight, self._threads, rgb.pixels)

    def fuse_luma(self, luma: np.ndarray, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The student's answer on the CPU: (H, W) uint8 from planes of that kind. weight: (H, W) float32 or None."""
        assert self._cpu is not None
        return self._cpu.fuse(luma, thermal, weight, self._threads)


def _cpu_student(student: Weights, warn: Callable[[str], None]) -> "NativeStudent | TorchStudent":
    """What runs the student."""
    try:
        return NativeStudent(student)
    except NativeError as error:
        try:
            from fusionproxy_ros.fusion.network import TorchStudent
        except ImportError as no_torch:
            raise DeviceError(
                f"nothing can run the student: {error}; or install torch ({no_torch})"
            ) from error
        warn(f"the student runs on torch, which is slower: {error}")
        return TorchStudent(student)
