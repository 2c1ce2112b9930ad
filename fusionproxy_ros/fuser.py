"""Composes registration, normalisation and student on one device: Pair in, Fused out."""

import ctypes
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fusionproxy_ros import colour, native
from fusionproxy_ros.checkpoint import Weights
from fusionproxy_ros.frames import Frame, Fused, FusionError, Mode, Pair
from fusionproxy_ros.native import NativeError, NativeStudent, is_installed
from fusionproxy_ros.normalisation import NormalisationConfig, Normalised, Normaliser
from fusionproxy_ros.registration import Registered, Registration

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
    """A pair whose thermal image lies on the RGB grid in grey levels; `registered` is None where it has none."""

    pair: Pair
    registered: Registered | None = None
    normalised: Normalised | None = None
    register_ns: int = 0
    normalise_ns: int = 0


class Fuser:
    """Owns the student and the AGC state. One thread at a time, but for `finish`.

    Registration and normalisation are the CPU's on every device: the AGC reads registered counts in the order of the
    frames, status and debug images want them there, and no GPU rounds them as cv2 does. What follows runs on the CPU by
    compiled code (by torch where that is not installed), or in half precision as one CUDA graph: the same picture to
    one grey level (two in a channel whose colour fades, see colour.py). torch is imported for a GPU or in place of the
    compiled code alone.

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
            self._cpu, self._add_luma = _on_cpu(student, threads, warn)
        self._normaliser = Normaliser(normalisation)

    def warm_up(self, size_px: tuple[int, int] = (640, 480)) -> None:
        """Pay for lazy initialisation before the first frame does."""
        thermal = np.zeros(size_px[::-1], np.uint8)
        rgb = Frame(0, "", np.dstack([thermal] * 3), "rgb8")
        for _ in range(3):
            self._picture(rgb, thermal, None)

    def fuse(self, pair: Pair, registration: Registration) -> Fused:
        """The fused picture of one pair; RGB's own pixels where the pair has no thermal frame.

        Raises RegistrationError when the images do not fit the calibration.
        """
        return self.finish(self.prepare(pair, registration))

    def prepare(self, pair: Pair, registration: Registration) -> "Prepared":
        """The part of `fuse` that depends on the pairs before it, through the AGC: call it in their order."""
        start_ns = time.monotonic_ns()
        if pair.thermal is None:
            return Prepared(pair)
        depth_m = pair.depth.pixels if pair.depth else None
        registered = registration.register(pair.thermal.pixels, pair.rgb.size_px, depth_m)
        if not registered.valid_fraction:
            return Prepared(
                replace(pair, reason="the thermal camera sees nothing of the RGB picture: calibrate")
            )
        registered_ns = time.monotonic_ns()
        normalised = self._normaliser.normalise(
            registered.pixels, registered.mask, pair.thermal.stamp_ns, pair.epoch
        )
        return Prepared(
            pair, registered, normalised, registered_ns - start_ns, time.monotonic_ns() - registered_ns
        )

    def finish(self, prepared: "Prepared") -> Fused:
        """The rest of `fuse`, in any order and from any thread."""
        pair, registered, normalised = prepared.pair, prepared.registered, prepared.normalised
        if registered is None:
            return Fused(pair.rgb.pixels, Mode.PASSTHROUGH, pair.reason)
        start_ns = time.monotonic_ns()
        return Fused(
            pixels=self._picture(pair.rgb, normalised.pixels, registered.weight),
            mode=pair.mode,
            reason=pair.reason,
            thermal=normalised.pixels,
            mask=registered.mask,
            valid_fraction=registered.valid_fraction,
            thermal_range=(normalised.low, normalised.high),
            register_ns=prepared.register_ns,
            normalise_ns=prepared.normalise_ns,
            student_ns=time.monotonic_ns() - start_ns,
        )

    def _picture(self, rgb: Frame, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        if self._gpu:
            return self._gpu.fuse(rgb, thermal, weight)
        luma = luma_of(rgb)
        return self._add_luma(rgb.pixels, luma, self.fuse_luma(luma, thermal, weight))

    def fuse_luma(self, luma: np.ndarray, thermal: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The student's answer on the CPU: (H, W) uint8 from planes of that kind. weight: (H, W) float32 or None."""
        return self._cpu.fuse(luma, thermal, weight, self._threads)


def _on_cpu(
    student: Weights, threads: int, warn: Callable[[str], None]
) -> tuple["NativeStudent | TorchStudent", Callable]:
    """What runs the student, and what paints its answer (as colour.add_luma)."""
    try:
        return NativeStudent(student), partial(native.add_luma, threads=threads)
    except NativeError as error:
        try:
            from fusionproxy_ros.student import TorchStudent
        except ImportError as no_torch:
            raise DeviceError(
                f"nothing can run the student: {error}; or install torch ({no_torch})"
            ) from error
        warn(f"the student runs on torch, which is slower: {error}")
        return TorchStudent(student), colour.add_luma
