"""Augmentation: crops, two complementary views for the teacher, bad conditions for the student.

Images are (H, W) float32 in [0, 1].
"""

from collections.abc import Sequence

import cv2
import numpy as np

from fusionproxy_ros.distill.data import Example
from fusionproxy_ros.metrics.robustness import MAX_SHIFT_PX, MAX_TURN_DEG, moved


def random_crop(
    example: Example, size_px: int, largest: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Luma and thermal of one square window of 1 to `largest` times size_px, shrunk to it, perhaps mirrored."""
    shorter = min(example.thermal.shape)
    side = min(round(size_px * rng.uniform(1, largest)), shorter)
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in example.thermal.shape)
    flip = rng.random() < 0.5

    def cropped(image: np.ndarray) -> np.ndarray:
        crop = image[top : top + side, left : left + side]
        crop = cv2.resize(
            crop, (size_px, size_px), interpolation=cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        )
        return np.ascontiguousarray(crop[:, ::-1] if flip else crop).astype(np.float32) / 255

    return cropped(example.luma), cropped(example.thermal)


def two_views(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two complementary bad views of one picture: what one has lost, the other shows.

    The second is of another tone (gain, offset, gamma; sometimes inverted), as thermal is against RGB.
    """
    mask = _blobs(rng, image.shape)
    first = image + (_spoilt(image, rng) - image) * mask
    second = image ** rng.uniform(0.6, 1.6) * rng.uniform(0.5, 1)
    second = second + rng.uniform(0, 1 - second.max())
    if rng.random() < 0.15:
        second = 1 - second
    second = second + (_spoilt(second, rng) - second) * (1 - mask)
    return first.clip(0, 1).astype(np.float32), second.clip(0, 1).astype(np.float32)


def _spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera shows where it sees badly."""
    kind = rng.integers(5)
    if kind == 0:  # darkness
        image = image * rng.uniform(0, 0.3)
    elif kind == 1:  # haze, glare, or a wall of one temperature
        image = image + (rng.uniform(0, 1) - image) * rng.uniform(0.7, 1)
    elif kind == 2:  # out of focus
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(2, 10))
    elif kind == 3:  # its own level, darker and without detail
        image = cv2.GaussianBlur(image, (0, 0), 8) * rng.uniform(0.5, 1) + rng.uniform(0, 0.2)
    else:  # nothing
        image = np.full_like(image, rng.uniform(0, 1))
    return image + rng.normal(0, rng.uniform(0, 0.02), image.shape)


def _blobs(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """A random mask in [0, 1], 1 on about half of the picture, with soft or hard borders."""
    cells = int(rng.choice([2, 3, 5, 8, 16]))
    field = cv2.resize(rng.random((cells, cells)), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip((field - np.quantile(field, rng.uniform(0.3, 0.7))) * rng.choice([4, 30]) + 0.5, 0, 1)


def bad_conditions(
    luma: np.ndarray, thermal: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A pair as it might have been taken: at night, in fog, in glare; another gain of thermal; misaligned.

    Noise is not added: these pairs are for the teacher too, whose answer is to be clean.
    """
    weather = rng.choice(4, p=[0.55, 0.2, 0.15, 0.1])
    if weather == 1:  # night
        luma = luma ** rng.uniform(1.3, 2.5) * rng.uniform(0.4, 1)
    elif weather == 2:  # fog, thicker towards the horizon
        depth = np.linspace(1, rng.uniform(0, 1), len(luma))[:, None] * rng.uniform(0.4, 0.95)
        luma = luma + (rng.uniform(0.4, 0.9) - luma) * depth
    elif weather == 3:  # glare
        rows, columns = np.ogrid[: luma.shape[0], : luma.shape[1]]
        row, column = (rng.uniform(0, extent) for extent in luma.shape)
        distance2 = (rows - row) ** 2 + (columns - column) ** 2
        luma = 1 - (1 - luma) * (1 - np.exp(-distance2 / (2 * (rng.uniform(0.08, 0.3) * len(luma)) ** 2)))
    gain = rng.uniform(0.6, 1)
    thermal = thermal * gain + rng.uniform(0, 1 - gain)
    if rng.random() < 0.35:
        thermal = moved(
            thermal, rng.uniform(-MAX_TURN_DEG, MAX_TURN_DEG), rng.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX, 2)
        )
    return luma.clip(0, 1).astype(np.float32), thermal.clip(0, 1).astype(np.float32)
