"""Pictures in folders, by name."""

from pathlib import Path

from fusionproxy_ros.frames import FusionError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def images_in(folder: Path, error: type[FusionError] = FusionError) -> dict[str, Path]:
    """File name without its suffix -> path, sorted. Raises `error` where there is no such folder."""
    if not folder.is_dir():
        raise error(f"{folder}: no such folder")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def suffixes() -> str:
    """The suffixes for a message."""
    return ", ".join(sorted(IMAGE_SUFFIXES))
