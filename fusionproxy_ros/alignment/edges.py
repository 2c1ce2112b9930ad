"""Edges by their direction in doubled angle: the same for a picture and its negative, as thermal often is of RGB."""

import cv2
import numpy as np

TENSOR_SIGMA = 1.0  # working px
NOISE_GAIN = 2.0  # gradients below this many times the median gradient fade out
NOISE_FLOOR = 1.0  # grey levels per working px; below it they fade out too: coding of a blank wall


def _doubled_angle(gx: np.ndarray, gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cos 2a, sin 2a) |g|^2 of gradients g at angle a."""
    return gx * gx - gy * gy, 2 * (gx * gy)


def edge_directions(pixels: np.ndarray, real: np.ndarray | None = None) -> np.ndarray:
    """Edge direction in doubled angle, (H, W, 2) float32 of length 0..1: 1 on a clear straight edge.

    real: (H, W) bool; elsewhere there are no edges. None means everywhere.
    """
    gx = cv2.Sobel(pixels, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(pixels, cv2.CV_32F, 0, 1, scale=1 / 8)
    along_x, along_y, power = (
        cv2.GaussianBlur(plane, (0, 0), TENSOR_SIGMA)
        for plane in (*_doubled_angle(gx, gy), gx * gx + gy * gy)
    )
    sample = power[::3, ::3] if real is None else power[::3, ::3][real[::3, ::3]]
    noise = NOISE_FLOOR**2 + (NOISE_GAIN**2 * np.median(sample) if sample.size else 0.0)
    weight = 1 / (power + noise) if real is None else real / (power + noise)
    return cv2.merge((along_x * weight, along_y * weight))


TEXTURE_FLOOR = 0.5  # of the mean gradient strength: weaker neighbourhoods are not amplified further
ROUNDING = 1e-4  # of the largest value: gradients below are float32's own


def oriented_gradients(image: np.ndarray, sigma_px: float = 1.0) -> np.ndarray:
    """Doubled-angle gradients, locally normalised: equal for a picture and its negative.

    image: (H, W) uint8, uint16 or float32, finite. sigma_px: the blur before the gradient.
    Returns (H, W, 2) float32: (cos 2a, sin 2a) * strength, a the gradient's angle; the strength is the gradient
    against its mean over the neighbourhood, about 0..3. The product of two such fields, summed, is high where
    outlines run along each other and negative where they cross.

    Source: Granlund's doubled-angle representation (1978) with local contrast normalisation; the comparison is
    that of Haber and Modersitzki's normalised gradient fields (2006), whose cos² differs by a constant.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma_px)
    gx, gy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    strength = cv2.magnitude(gx, gy)
    around = cv2.GaussianBlur(strength, (0, 0), 8 * sigma_px) + TEXTURE_FLOOR * strength.mean()
    scale = 1 / (strength + 1e-9) / (around + ROUNDING * np.abs(smooth).max() + 1e-9)
    return np.dstack([plane * scale for plane in _doubled_angle(gx, gy)])


def masked_gradients(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`oriented_gradients`, 0 wherever they reach a pixel outside the mask, (H, W) uint8, 0 or 1."""
    mask = cv2.erode(mask, np.ones((9, 9)), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return oriented_gradients(image) * mask[..., None]
