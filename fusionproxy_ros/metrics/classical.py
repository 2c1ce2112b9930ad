"""Classical fusion of a luma and a thermal image, to be beaten: no training, no state."""

from collections.abc import Callable

import cv2
import numpy as np

from fusionproxy_ros.core.pictures import to_grey_levels

# (luma, thermal), each (H, W) uint8 -> fused luma, (H, W) uint8
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def average(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """floor((Y + T) / 2)."""
    return ((luma.astype(np.uint16) + thermal) // 2).astype(np.uint8)


def maximum(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """max(Y, T)."""
    return np.maximum(luma, thermal)


def laplacian_pyramid(luma: np.ndarray, thermal: np.ndarray, levels: int = 4) -> np.ndarray:
    """Burt and Kolczynski's pyramid fusion: the base averaged, of each detail the stronger (ICCV 1993)."""
    y: np.ndarray = luma.astype(np.float32)
    t: np.ndarray = thermal.astype(np.float32)
    details = []
    for _ in range(levels):
        small_y, small_t = cv2.pyrDown(y), cv2.pyrDown(t)
        size = y.shape[::-1]
        detail_y, detail_t = y - cv2.pyrUp(small_y, dstsize=size), t - cv2.pyrUp(small_t, dstsize=size)
        details.append(np.where(np.abs(detail_y) >= np.abs(detail_t), detail_y, detail_t))
        y, t = small_y, small_t
    fused: np.ndarray = (y + t) / 2
    for detail in reversed(details):
        fused = cv2.pyrUp(fused, dstsize=detail.shape[::-1]) + detail
    return to_grey_levels(fused / 255)


def guided_filter(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Li, Kang and Hu, "Image fusion with guided filtering", IEEE TIP 22 (2013), its parameters."""
    images = [image.astype(np.float32) / 255 for image in (luma, thermal)]
    saliency = [cv2.GaussianBlur(np.abs(cv2.Laplacian(image, -1)), (11, 11), 5) for image in images]
    is_luma = (saliency[0] >= saliency[1]).astype(np.float32)
    bases = [cv2.blur(image, (31, 31)) for image in images]
    fused = np.zeros_like(images[0])
    for layers, radius, eps in (
        (bases, 45, 0.3),
        ([image - base for image, base in zip(images, bases, strict=True)], 7, 1e-6),
    ):
        weights = [
            _guide(image, mask, radius, eps)
            for image, mask in zip(images, (is_luma, 1 - is_luma), strict=True)
        ]
        total = weights[0] + weights[1] + 1e-6
        fused += (weights[0] * layers[0] + weights[1] * layers[1]) / total
    return to_grey_levels(fused)


CLASSICAL: dict[str, Fuse] = {
    "average": average,
    "maximum": maximum,
    "Laplacian pyramid": laplacian_pyramid,
    "guided filter": guided_filter,
}


def _guide(guide: np.ndarray, image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    def mean(values):
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    mean_g, mean_i = mean(guide), mean(image)
    slope = (mean(guide * image) - mean_g * mean_i) / (mean(guide * guide) - mean_g**2 + eps)
    return np.clip(mean(slope) * guide + mean(mean_i - slope * mean_g), 0, 1)
