"""The student on a CPU, by compiled code (src/student.c): the network of network.py in a fraction of torch's time."""

import ctypes
import threading
from functools import cache, partial
from pathlib import Path

import numpy as np

import fusionproxy_ros
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.fusion.weights import Weights

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


def is_installed() -> bool:
    """Whether a NativeStudent can be made here."""
    try:
        _library()
    except NativeError:
        return False
    return True


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

    def __init__(self, weights: Weights, variant: str = ""):
        library = _library()
        self._run = getattr(library, f"student_fuse_{variant or library.student_variant().decode()}")
        self._packed: list[np.ndarray] = []  # what the pointers point to
        self._student = _Student(*(self._layer(weights.arrays, field[0]) for field in _Student._fields_))
        self._floats = partial(library.student_workspace, ctypes.byref(self._student))
        self._mine = threading.local()

    def fuse(
        self,
        luma: np.ndarray,
        thermal: np.ndarray,
        weight: np.ndarray | None = None,
        threads: int = 1,
        rgb: np.ndarray | None = None,
    ) -> np.ndarray:
        """Fused luma, (H, W) uint8, from luma and thermal of the same kind; the same bits for any number of threads.

        weight: (H, W) float32 in [0, 1], as of Student.forward. rgb: (H, W, 3) uint8 of this luma; the answer then is
        the colour picture instead, colour.add_luma of what has not been rounded. Raises ValueError where sizes differ.
        """
        height, width = luma.shape
        planes: list[np.ndarray | None] = [np.ascontiguousarray(plane, np.uint8) for plane in (luma, thermal)]
        planes.append(None if weight is None else np.ascontiguousarray(weight, np.float32))
        planes.append(None if rgb is None else np.ascontiguousarray(rgb, np.uint8))
        fused = np.empty((height, width) if rgb is None else (height, width, 3), np.uint8)
        wanted = [(height, width)] * 3 + [fused.shape]
        if not luma.size or any(p is not None and p.shape != s for p, s in zip(planes, wanted, strict=True)):
            shapes = [None if plane is None else plane.shape for plane in planes]
            raise ValueError(f"luma, thermal, weight and rgb are {shapes}: give them one size")
        *given, space, out = (
            None if array is None else ctypes.c_void_p(array.ctypes.data)
            for array in (*planes, self._workspace(height, width), fused)
        )
        self._run(ctypes.byref(self._student), *given, height, width, threads, space, out)
        return fused

    def _workspace(self, height: int, width: int) -> np.ndarray:
        """Of this thread: zeros at the first use for a size."""
        if getattr(self._mine, "size", None) != (height, width):
            self._mine.size = height, width
            self._mine.space = np.zeros(self._floats(height, width), np.float32)
        return self._mine.space

    def _layer(self, arrays: dict[str, np.ndarray], name: str) -> _Layer:
        """As src/student.c wants it."""
        stored = name.replace("context", "context.")
        weight, bias = arrays[f"{stored}.weight"], arrays[f"{stored}.bias"]
        if name == "stem" or weight.ndim == 2:
            # One tap; the stem's inputs are 4x4 pixels of luma, then of thermal.
            weight = weight.reshape(len(weight), -1, 1, 1)
        weight, bias = _padded(weight, 0, 1), _padded(bias, 0)
        outputs, inputs = weight.shape[:2]
        by_tap = weight.transpose(2, 3, 1, 0)
        blocks = np.split(by_tap, range(2 * LANES, outputs, 2 * LANES), axis=-1)
        packed = [np.concatenate([block.ravel() for block in blocks]), bias]
        packed = [np.array(array, np.float32, order="C") for array in packed]
        self._packed += packed
        return _Layer(inputs, outputs, *(array.ctypes.data for array in packed))


def _padded(array: np.ndarray, *axes: int) -> np.ndarray:
    """Zeros appended along `axes`, up to a multiple of LANES."""
    return np.pad(array, [(0, -n % LANES if axis in axes else 0) for axis, n in enumerate(array.shape)])
