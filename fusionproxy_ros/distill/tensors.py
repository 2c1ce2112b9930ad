"""Tensors on disk, safe from kills: safetensors, replaced in one step, never pickle."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusionproxy_ros.checkpoint import save_bytes
from fusionproxy_ros.frames import FusionError


class TensorFileError(FusionError):
    """A file of tensors that is missing, damaged, or not what it should be."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """As save_bytes does."""
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_bytes(path, save(here, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises TensorFileError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TensorFileError(f"{path}: not an intact safetensors file ({error}); make it again") from error
