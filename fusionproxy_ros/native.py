"""The student on a CPU, by compiled code (src/student.c): the network of student.py in a fraction of torch's time."""

import ctypes
import threading
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fusionproxy_ros
from fusionproxy_ros.frames import FusionError
from fusionproxy_ros.student import Student

FOLDERS = fusionproxy_ros.__path__  # the source tree and, of what was built, where it is installed
LANES = 8  # as in src/student.c: channels are padded by zeros to multiples of it


@cache
def _library() -> ctypes.CDLL:
    """What was built from src/student.c."""
    found = next((path for folder in FOLDERS for path in Path(folder).glob("libstudent*.so")), None)
    if not found:
        raise NativeError(
            "libstudent.so is not beside the code: install with colcon, make or pip, and a C compiler"
        )
    try:
        library = ctypes.CDLL(str(found))  # releases the GIL while it runs
    except OSError as error:
        raise NativeError(
            f"{found.name} does not load ({error}): install it again on this machine"
        ) from error
    library.student_workspace.restype, library.student_variant.restype = ctypes.c_size_t, ctypes.c_char_p
    return library


class _Layer(ctypes.Structure):
    _fields_ = [
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class _Student(ctypes.Structure):
    _layers = "stem", "down8", "enc8", "down16", "enc16", "context0", "context2", "dec16"
    _fields_ = [(name, _Layer) for name in (*_layers, "up8", "dec8", "up4", "dec4", "head")]


class NativeError(FusionError):
    """The compiled code is not installed, or not for this machine."""


class NativeStudent:
    """A student's weights, packed for the compiled code. Any thread may call it; each has a workspace of its own.

    variant: "avx512", "avx2" or "base", the instructions to use; the best this processor has if not given. All agree to
        one grey level, the first two to the last bit.
    Raises NativeError where the compiled code is not there.
    """

    def __init__(self, student: Student, variant: str = ""):
        library = _library()
        self._run = getattr(library, f"student_fuse_{variant or library.student_variant().decode()}")
        self._packed = []  # what the pointers point to
        layers = dict(student.named_modules(), context0=student.context[0], context2=student.context[2])
        self._student = _Student(*(self._layer(name, layers[name]) for name, _ in _Student._fields_))
        self._floats = partial(library.student_workspace, ctypes.byref(self._student))
        self._mine = threading.local()

    def fuse(
        self, luma: np.ndarray, thermal: np.ndarray, weight: np.ndarray | None = None, threads: int = 1
    ) -> np.ndarray:
        """Fused luma, (H, W) uint8, from luma and thermal of the same kind; the same bits for any number of threads.

        weight: (H, W) float32 in [0, 1], as of Student.forward. Raises ValueError where sizes differ.
        """
        height, width = luma.shape
        planes = [np.ascontiguousarray(plane, np.uint8) for plane in (luma, thermal)]
        if weight is not None:
            planes.append(np.ascontiguousarray(weight, np.float32))
        if any(plane.shape != (height, width) for plane in planes) or not luma.size:
            raise ValueError(f"luma, thermal and weight are {[p.shape for p in planes]}: give them one size")
        fused = np.empty((height, width), np.uint8)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*planes, self._workspace(height, width), fused)]
        if weight is None:
            pointers.insert(2, None)
        self._run(ctypes.byref(self._student), *pointers[:3], height, width, threads, *pointers[3:])
        return fused

    def _workspace(self, height: int, width: int) -> np.ndarray:
        """Of this thread: zeros at the first use for a size."""
        if getattr(self._mine, "size", None) != (height, width):
            self._mine.size = height, width
            self._mine.space = np.zeros(self._floats(height, width), np.float32)
        return self._mine.space

    def _layer(self, name: str, module: torch.nn.Module) -> _Layer:
        """As src/student.c wants it."""
        weight, bias = module.weight.detach().cpu(), module.bias.detach().cpu()
        if (
            name == "stem" or weight.dim() == 2
        ):  # one tap; the stem's inputs are 4x4 pixels of luma, then of thermal
            weight = weight.reshape(len(weight), -1, 1, 1)
        weight, bias = _padded(weight, 0, 1), _padded(bias, 0)
        outputs, inputs, height, width = weight.shape
        block = 2 * LANES if outputs % (2 * LANES) == 0 else LANES
        weight = weight.reshape(outputs // block, block, inputs, height, width).permute(0, 3, 4, 2, 1)
        arrays = [np.ascontiguousarray(tensor.numpy(), np.float32) for tensor in (weight, bias)]
        self._packed += arrays
        return _Layer(inputs, outputs, *(array.ctypes.data for array in arrays))


def _padded(tensor: Tensor, *axes: int) -> Tensor:
    """Zeros appended along `axes`, up to a multiple of LANES."""
    for axis in axes:
        shape = list(tensor.shape)
        shape[axis] = -shape[axis] % LANES
        tensor = torch.cat([tensor, tensor.new_zeros(shape)], axis)
    return tensor
