"""What a fusion method does when thermal is misaligned or useless, and from one video frame to the next."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.core.image_files import InputError
from fusionproxy_ros.metrics.classical import Fuse
from fusionproxy_ros.metrics.fusion_metrics import psnr

MAX_SHIFT_PX = 30  # of misaligned thermal
MAX_TURN_DEG = 10.0
EDGE_SHARE = 0.05  # of a picture's pixels are its strong edges
EDGE_WIDTH_PX = 5  # within it, an edge of thermal lies on one of RGB
FLAT_LEVELS = (0, 85, 170, 255)  # grey levels of a dead thermal camera
CLIP_FRAMES = 60
STILL_LEVELS = 2  # grey levels; sources that change by no more show sensor noise
BLOCK_PX = 16

# (luma, thermal) of consecutive frames, each (H, W) uint8
Clip = Sequence[tuple[np.ndarray, np.ndarray]]


def moved(image: np.ndarray, turn_deg: float, shift_px: Sequence[float] | np.ndarray) -> np.ndarray:
    """Turned about its centre, then shifted by (right, down); borders reflected."""
    height, width = image.shape
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn_deg, 1)
    motion[:, 2] += np.asarray(shift_px)
    return cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REFLECT)


def misaligned(thermal: np.ndarray, name: str) -> np.ndarray:
    """Thermal shifted by MAX_SHIFT_PX and turned by MAX_TURN_DEG about its centre, borders reflected.

    Both directions are drawn from the pair's `name`, so they are the same in every run.
    """
    rng = np.random.default_rng(list(name.encode()))
    turn_deg = float(rng.choice((-MAX_TURN_DEG, MAX_TURN_DEG)))
    heading = rng.uniform(0, 2 * np.pi)
    return moved(thermal, turn_deg, MAX_SHIFT_PX * np.array((np.cos(heading), np.sin(heading))))


def ghost(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """How doubled edges compare with RGB's own: mean |grad F| at the ones over that at the others; < 1 is wanted.

    RGB's own edges are the strongest EDGE_SHARE of |grad Y|. Ghosts are the strongest EDGE_SHARE of
    |grad T|, T misaligned, with none of RGB's own edges within EDGE_WIDTH_PX. Gradients are Sobel's. 0 without ghosts
    or without edges that could double.
    """
    of_fused, of_luma, of_thermal = (_gradient(image) for image in (fused, luma, thermal))
    own = of_luma > np.quantile(of_luma, 1 - EDGE_SHARE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * EDGE_WIDTH_PX + 1, 2 * EDGE_WIDTH_PX + 1))
    near_own = cv2.dilate(own.astype(np.uint8), disc).astype(bool)
    ghosts = (of_thermal > np.quantile(of_thermal, 1 - EDGE_SHARE)) & ~near_own
    if not ghosts.any() or not own.any():
        return 0.0
    return float(of_fused[ghosts].mean() / max(of_fused[own].mean(), 1e-9))


def flat_thermal_psnr(luma: np.ndarray, fuse: Fuse) -> float:
    """PSNR in dB of the fused picture to luma with a constant thermal image, the worst of FLAT_LEVELS."""
    return min(psnr(fuse(luma, np.full_like(luma, level)), luma) for level in FLAT_LEVELS)


def noisy_thermal_psnr(luma: np.ndarray, fuse: Fuse) -> float:
    """PSNR in dB of the fused picture to luma where thermal is mid-grey with noise of 1 grey level."""
    noise = np.random.default_rng(0).normal(0, 1, luma.shape)
    return psnr(fuse(luma, np.rint(128 + noise).astype(np.uint8)), luma)


def clips(folder: Path) -> Iterator[tuple[str, Clip]]:
    """(NAME, its first CLIP_FRAMES frames) for each NAME_rgb.mp4 with NAME_thermal.mp4 in `folder`, by name.

    Raises InputError where one of a clip's files is missing, unreadable or of another size.
    """
    for rgb in sorted(folder.glob("*_rgb.mp4")):
        name = rgb.name.removesuffix("_rgb.mp4")
        thermal = folder / f"{name}_thermal.mp4"
        clip = list(zip(_grey_frames(rgb), _grey_frames(thermal), strict=False))
        if len(clip) < 2 or clip[0][0].shape != clip[0][1].shape:
            raise InputError(
                f"{rgb} and {thermal} are not two readable clips of one size: replace or remove them"
            )
        yield name, clip


def flicker(clip: Clip, fuse: Fuse) -> tuple[float, float]:
    """(flicker, residual) of the fused clip, both relative to RGB; dF, dY, dT are changes between frames.

    flicker: mean |dF| over mean |dY|, where |dY| and |dT| are both at most STILL_LEVELS; 1 is RGB's own.
    residual: mean |dF - a dY - b dT| over mean |dY|, at all pixels, a and b by least squares in each block of
        BLOCK_PX x BLOCK_PX: what neither source's change explains; 0 is RGB's own.
    """
    fused = [fuse(luma, thermal) for luma, thermal in clip]
    still_change, residual, change = np.zeros(2), 0.0, 0.0
    for index in range(1, len(clip)):
        df = _change(fused[index - 1], fused[index])
        dy, dt = (_change(old, new) for old, new in zip(clip[index - 1], clip[index], strict=True))
        still = (np.abs(dy) <= STILL_LEVELS) & (np.abs(dt) <= STILL_LEVELS)
        still_change += np.abs(df[still]).sum(), np.abs(dy[still]).sum()
        residual += np.abs(_unexplained(*(_blocks(image) for image in (df, dy, dt)))).sum()
        change += np.abs(_blocks(dy)).sum()
    return float(still_change[0] / max(still_change[1], 1e-9)), float(residual / max(change, 1e-9))


def _gradient(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return cv2.magnitude(cv2.Sobel(image, -1, 1, 0), cv2.Sobel(image, -1, 0, 1))


def _grey_frames(path: Path) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    for _ in range(CLIP_FRAMES):
        read, frame = video.read()
        if not read:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def _change(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return new.astype(np.float64) - old


def _blocks(image: np.ndarray) -> np.ndarray:
    """(N, BLOCK_PX^2): the pixels of each whole block."""
    rows, columns = (extent // BLOCK_PX for extent in image.shape)
    whole = image[: rows * BLOCK_PX, : columns * BLOCK_PX]
    return whole.reshape(rows, BLOCK_PX, columns, BLOCK_PX).swapaxes(1, 2).reshape(rows * columns, -1)


def _unexplained(df: np.ndarray, dy: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """Residual of df ~ a dy + b dt, row by row."""
    sources = np.stack((dy, dt), 1)
    # The ridge, far below one grey level, is for blocks in which a source, or their ratio, stands still.
    normal = sources @ sources.swapaxes(1, 2) + 1e-6 * np.eye(2)
    coefficients = np.linalg.solve(normal, sources @ df[..., None])
    return df - (coefficients.swapaxes(1, 2) @ sources)[:, 0]
