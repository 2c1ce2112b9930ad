"""Pictures in folders, by name."""

from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.core.errors import FusionError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class InputError(FusionError):
    """A picture is missing or unusable; the text names it."""


def images_in(folder: Path) -> dict[str, Path]:
    """File name without its suffix -> path, sorted. Raises InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def images_in_each(*folders: Path) -> list[dict[str, Path]]:
    """As images_in, of folders whose pictures go together because they share a file name.

    Raises InputError where a folder is missing or has no pictures, or where no name is in all of them.
    """
    found = [images_in(folder) for folder in folders]
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    for folder, own in zip(folders, found, strict=True):
        if not own:
            raise InputError(f"{folder}: no images in it ({suffixes})")
    if not set.intersection(*map(set, found)):
        raise InputError(
            f"{' and '.join(map(str, folders))} share no file name: name the pictures of one moment alike, as "
            f"rgb/0001.png and thermal/0001.png ({suffixes})"
        )
    return found


def partners_in(*folders: Path) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """The pictures that go together because they share a file name, and what is wrong with the others.

    Returns: file name without its suffix -> its path in each of the folders, sorted by name; and a sentence for each
    picture that has no partner in one of the folders.

    Raises InputError as images_in_each.
    """
    found = images_in_each(*folders)
    common = sorted(set.intersection(*map(set, found)))
    lonely = [
        f"{own[name]}: no picture of that name in {other}"
        for own in found
        for name in own
        for other, others in zip(folders, found, strict=True)
        if name not in others
    ]
    return {name: tuple(own[name] for own in found) for name in common}, lonely


def read_image(path: Path, flags: int) -> np.ndarray:
    """As cv2.imread. Raises InputError."""
    pixels = cv2.imread(str(path), flags)
    if pixels is None:
        raise InputError(f"{path}: not a readable image")
    return pixels


def read_rgb_file(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, BGR. Raises InputError."""
    return read_image(path, cv2.IMREAD_COLOR)


def read_thermal_file(path: Path) -> np.ndarray:
    """(H, W), as it is in the file. Raises InputError, for colour too."""
    pixels = read_image(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3:
        if not (pixels[..., 0] == pixels[..., 1]).all() or not (pixels[..., 0] == pixels[..., 2]).all():
            raise InputError(f"{path}: thermal is in colour; a palette cannot be undone, give one channel")
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels
