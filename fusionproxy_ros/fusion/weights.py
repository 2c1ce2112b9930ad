"""A student's weights on disk: read and checked without torch, which the node needs on a GPU only.

Only safetensors are read: numbers and text, nothing that could run.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fusionproxy_ros.core.errors import FusionError

DEFAULT_STUDENT = Path(__file__).parents[1] / "models" / "fusionproxy.safetensors"
ARCHITECTURE = "local-affine-1"


class StudentError(FusionError):
    """A checkpoint that is missing, damaged, or not of this architecture, or what reads it is missing."""


try:
    from safetensors import SafetensorError, safe_open
except ImportError as error:  # rosdep does not know it
    raise StudentError(
        f"the student's weights are read by safetensors ({error}): pip install safetensors"
    ) from None


@dataclass(frozen=True, eq=False)
class Weights:
    """What there is to know of a network.Student.

    arrays: its parameters by name, float32, as `shapes` has them. metadata: of the file that they were read from.
    """

    widths: tuple[int, int, int]
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)


def shapes(widths: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Of each parameter of a student with so many channels at 1/4, 1/8 and 1/16 of the resolution."""
    w4, w8, w16 = widths
    kernels = {
        "stem": (w4, 2, 4, 4),
        "down8": (w8, w4, 3, 3),
        "enc8": (w8, w8, 3, 3),
        "down16": (w16, w8, 3, 3),
        "enc16": (w16, w16, 3, 3),
        "context.0": (w16, w16),
        "context.2": (w16, w16),
        "dec16": (w16, w16, 3, 3),
        "up8": (w8, w16, 1, 1),
        "dec8": (w8, w8, 3, 3),
        "up4": (w4, w8, 1, 1),
        "dec4": (w4, w4, 3, 3),
        "head": (16, w4, 3, 3),
    }
    biases = {f"{layer}.bias": kernel[:1] for layer, kernel in kernels.items()}
    return {f"{layer}.weight": kernel for layer, kernel in kernels.items()} | biases


def read_weights(path: Path | str) -> Weights:
    """The student in a checkpoint written by network.save_student.

    Raises StudentError where the file is missing, not safetensors, damaged, or of another architecture.
    """
    if not Path(path).is_file():
        raise StudentError(f"{path}: no such checkpoint; give the path of a .safetensors student")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("architecture") != ARCHITECTURE:
                found = metadata.get("architecture", "none stated")
                raise StudentError(
                    f"{path}: architecture is {found}, this version runs {ARCHITECTURE}; train it again"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StudentError(
            f"{path}: not an intact safetensors file ({error}); fetch or train it again"
        ) from error
    except (TypeError, ValueError) as error:  # numpy has no such number
        raise StudentError(f"{path}: weights are not float32 ({error}); train it again") from error
    try:
        widths = tuple(json.loads(metadata["arguments"])["widths"])
        if len(widths) != 3 or not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"widths are {widths}, not three numbers of channels")
        wanted = shapes(widths)
        if {name: array.shape for name, array in arrays.items()} != wanted:
            wrong = next(n for n in wanted | arrays if n not in arrays or arrays[n].shape != wanted.get(n))
            raise ValueError(f"{wrong} is {getattr(arrays.get(wrong), 'shape', 'missing')}, widths {widths}")
        if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("weights are not finite float32 numbers")
    except (LookupError, TypeError, ValueError) as error:
        raise StudentError(
            f"{path}: weights and stated architecture disagree ({error}); train it again"
        ) from error
    return Weights(widths, arrays, metadata)
