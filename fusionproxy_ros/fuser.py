"""Composes registration, normalisation and student on one device: Pair in, Fused out."""

import ctypes
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fusionproxy_ros.checkpoint import Weights
from fusionproxy_ros.frames import Frame, Fused, FusionError, Mode, Pair
from fusionproxy_ros.native import NativeError, NativeStudent, is_installed
from fusionproxy_ros.normalisation import NormalisationConfig, Normaliser, sample_step, to_uint8
from fusionproxy_ros.registration import Registered, Registration, identity
from fusionproxy_ros.restraint import RESTRAINED, TOLD_BELOW, Restraint, tolerated_contrast, with_contrast

if TYPE_CHECKING:
    from fusionproxy_ros.student import TorchStudent


class DeviceError(FusionError):
    """The asked-for device is not here."""


def free_gpu_memory() -> None:
    """Give back what torch keeps for later, once nothing uses it."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def gpus_of_driver() -> int:
    """How many the CUDA driver sees; asked directly, since torch takes two seconds to be imported."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def torch_is_needed() -> bool:
    """Whether a Fuser may import torch here."""
    return bool(gpus_of_driver()) or not is_installed()


def pick_device(name: str, warn: Callable[[str], None] = warnings.warn) -> str:
    """ "cuda" or "cpu"; "auto" is CUDA where there are a GPU and torch.

    Raises DeviceError when "cuda" is asked for and cannot be had.
    """
    if name == "cpu" or (name == "auto" and not gpus_of_driver()):
        return "cpu"
    try:
        import torch

        cause = "" if torch.cuda.is_available() else "torch sees no CUDA device"
    except ImportError as error:
        cause = f"torch, which would use a GPU, is not installed ({error})"
    if not cause:
        return "cuda"
    if name == "cuda":
        raise DeviceError(f"student.device is 'cuda' and {cause}: set it to 'auto' or 'cpu'")
    warn(f"there is a GPU, and the student runs on the CPU: {cause}")
    return "cpu"


def luma_of(frame: Frame) -> np.ndarray:
    """(H, W) uint8 luminance (BT.601) of a colour frame."""
    return cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2GRAY if frame.encoding == "rgb8" else cv2.COLOR_BGR2GRAY)


def overlay(rgb: Frame, thermal: np.ndarray) -> np.ndarray:
    """Registered thermal, (H, W) uint8, in false colour half over the picture: shows misregistration at a glance."""
    heat = cv2.applyColorMap(thermal, cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(rgb.pixels, 0.5, heat[..., ::-1] if rgb.encoding == "rgb8" else heat, 0.5, 0)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pair, where its thermal image lies and which of its counts become 0 and 255; None where it has none.

    thermal_contrast: of what the AGC would show. thermal: (H, W) uint8, in grey levels on the RGB grid; on a GPU that
    is made with the picture.
    """

    pair: Pair
    registered: Registered | None = None
    thermal_range: tuple[float, float] = (0.0, 0.0)
    thermal_contrast: float = 1.0
    thermal: np.ndarray | None = None
    register_ns: int = 0
    normalise_ns: int = 0


class Fuser:
    """Owns the student and the state of AGC and restraint. One thread at a time, but for `finish`.

    Where thermal lies, and which range of its counts is shown, is worked out on the CPU on every device: both look at
    a sample of the registered counts, in the order of the frames. All that touches every pixel runs on the CPU, the
    student by compiled code (by torch where that is not installed); or on a GPU as one CUDA graph, the network in half
    precision: the same picture to one grey level. torch is imported for a GPU or in place of the compiled code alone.

    threads: of the CPU, for the student. warn: told when the compiled code is missing, and as of DeviceFuser.
    """

    def __init__(
        self,
        student: Weights,
        normalisation: NormalisationConfig,
        device: str = "auto",
        threads: int = 2,
        warn: Callable[[str], None] = warnings.warn,
    ):
        self.device = pick_device(device, warn)
        self._threads = threads
        if self.device == "cuda":
            from fusionproxy_ros.device import DeviceFuser
            from fusionproxy_ros.student import student_of

            self._gpu, self._cpu = DeviceFuser(student_of(student), self.device, warn=warn), None
        else:
            self._gpu = None
            self._cpu = _on_cpu(student, warn)
        self._normaliser, self._restraint = Normaliser(normalisation), Restraint()

    def warm_up(self, size_px: tuple[int, int] = (640, 480)) -> None:
        """Pay for lazy initialisation before the first frame does."""
        dark = np.zeros(size_px[::-1], np.uint8)
        pair = Pair(Frame(0, "", np.dstack([dark] * 3), "rgb8"), Frame(0, "", dark, "mono8"), Mode.FUSED)
        for _ in range(3):
            self.fuse(pair, identity())
        self._restraint = Restraint()  # the first frame is still to come

    def fuse(self, pair: Pair, registration: Registration) -> Fused:
        """The fused picture of one pair; RGB's own pixels where the pair has no thermal frame.

        Raises RegistrationError when the images do not fit the calibration.
        """
        return self.finish(self.prepare(pair, registration))

    def prepare(self, pair: Pair, registration: Registration) -> "Prepared":
        """The part of `fuse` that depends on the pairs before it: call it in their order."""
        start_ns = time.monotonic_ns()
        if pair.thermal is None:
            return Prepared(pair)
        depth_m = pair.depth.pixels if pair.depth else None
        registered = registration.register(pair.thermal.pixels, pair.rgb.size_px, depth_m)
        if not registered.valid_fraction:
            return Prepared(
                replace(pair, reason="the thermal camera sees nothing of the RGB picture: calibrate")
            )
        step = sample_step(math.prod(pair.rgb.size_px))
        sample = registered.sample(step) if self._gpu else registered.pixels[::step, ::step]
        registered_ns = time.monotonic_ns()
        seen = None if registered.mask is None else registered.mask[::step, ::step]
        thermal_range = self._normaliser.follow(sample, seen, pair.thermal.stamp_ns, pair.epoch)

        def look() -> float:
            luma = luma_of(replace(pair.rgb, pixels=pair.rgb.pixels[::step, ::step]))
            return tolerated_contrast(luma, to_uint8(sample, *thermal_range), seen)

        contrast = self._restraint.follow(look, pair.rgb.stamp_ns, pair.epoch)
        thermal_range = with_contrast(*thermal_range, contrast)
        thermal = None if self._gpu else to_uint8(registered.pixels, *thermal_range)
        times_ns = registered_ns - start_ns, time.monotonic_ns() - registered_ns
        return Prepared(pair, registered, thermal_range, contrast, thermal, *times_ns)

    def finish(self, prepared: "Prepared") -> Fused:
        """The rest of `fuse`, in any order and from any thread."""
        pair, registered, thermal = prepared.pair, prepared.registered, prepared.thermal
        if registered is None:
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, pair.reason)
        start_ns = time.monotonic_ns()
        if self._gpu:
            pixels, thermal = self._gpu.fuse(pair.rgb, registered, prepared.thermal_range)
        else:
            luma, weight = luma_of(pair.rgb), registered.weight
            pixels = self._cpu.fuse(luma, thermal, weight, self._threads, pair.rgb.pixels)
        return Fused(
            pixels=pixels,
            mode=pair.mode,
            reason=pair.reason or (RESTRAINED if prepared.thermal_contrast < TOLD_BELOW else ""),
            thermal=thermal,
            mask=registered.mask,
            valid_fraction=registered.valid_fraction,
            thermal_range=prepared.thermal_range,
            thermal_contrast=prepared.thermal_contrast,
            register_ns=prepared.register_ns,
            normalise_ns=prepared.normalise_ns,
            student_ns=time.monotonic_ns() - start_ns,
        )

    def fuse_luma(self, luma: np.ndarray, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The student's answer on the CPU: (H, W) uint8 from planes of that kind. weight: (H, W) float32 or None."""
        return self._cpu.fuse(luma, thermal, weight, self._threads)


def _on_cpu(student: Weights, warn: Callable[[str], None]) -> "NativeStudent | TorchStudent":
    """What runs the student."""
    try:
        return NativeStudent(student)
    except NativeError as error:
        try:
            from fusionproxy_ros.student import TorchStudent
        except ImportError as no_torch:
            raise DeviceError(
                f"nothing can run the student: {error}; or install torch ({no_torch})"
            ) from error
        warn(f"the student runs on torch, which is slower: {error}")
        return TorchStudent(student)
