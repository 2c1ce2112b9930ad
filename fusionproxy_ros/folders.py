"""Pictures in folders, by name."""

from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.frames import FusionError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class InputError(FusionError):
    """A picture is missing or unusable; the text names it."""


def images_in(folder: Path, error: type[FusionError] = FusionError) -> dict[str, Path]:
    """File name without its suffix -> path, sorted. Raises `error` where there is no such folder."""
    if not folder.is_dir():
        raise error(f"{folder}: no such folder")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def suffixes() -> str:
    """The suffixes for a message."""
    return ", ".join(sorted(IMAGE_SUFFIXES))


def read_image(path: Path, flags: int) -> np.ndarray:
    """As cv2.imread. Raises InputError."""
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise InputError(f"{path}: not a readable image")
    return pixels


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, BGR. Raises InputError."""
    return read_image(path, cv2.IMREAD_COLOR)


def read_thermal(path: Path) -> np.ndarray:
    """(H, W), as it is in the file. Raises InputError, for colour too."""
    pixels = read_image(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3:
        if not (pixels[..., 0] == pixels[..., 1]).all() or not (pixels[..., 0] == pixels[..., 2]).all():
            raise InputError(f"{path}: thermal is in colour; a palette cannot be undone, give one channel")
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels
