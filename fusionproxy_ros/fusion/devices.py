"""Which device runs the student, found without importing torch."""

import ctypes
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.fusion.cpu import is_installed


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


def import_torch_if_needed() -> None:
    """Now, rather than when the first Fuser is made: it takes two seconds."""
    if torch_is_needed():
        with suppress(ImportError):  # Fuser says what that means
            import torch  # noqa: F401


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
