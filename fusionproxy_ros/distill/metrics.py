"""Fusion metrics of the infrared-visible literature, on 8-bit grey levels (0..255).

Every function takes the fused picture and both sources, (H, W) arrays in grey levels of any numeric dtype,
and returns a float; larger is better. `luma` is Y of OpenCV's BGR -> YCrCb, `thermal` is the thermal image.
"""

import cv2
import numpy as np


def scd(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Sum of the correlations of differences: corr(F - T, Y) + corr(F - Y, T), -2..2.

    Aslantas and Bendes, "A new image quality metric for image fusion", AEU 69 (2015). A difference without
    contrast correlates with nothing: 0.
    """
    f, y, t = (np.asarray(image, np.float64) for image in (fused, luma, thermal))
    return _correlation(f - t, y) + _correlation(f - y, t)


def vif(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Visual information fidelity of the fused picture for each source, added; 2 for a perfect copy of both.

    The pixel-domain form of Sheikh and Bovik, "Image information and visual quality", IEEE TIP 15 (2006):
    four scales, Gaussian windows, noise variance 2. Contrast enhancement can exceed 1 per source.
    """
    return _vif(luma, fused) + _vif(thermal, fused)


def qabf(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Share of the sources' edges (strength and direction) that survives in the fused picture, 0..1.

    Xydeas and Petrovic, "Objective image fusion performance measure", Electronics Letters 36 (2000), with
    Sobel gradients and the usual sigmoid constants; a pixel weighs as much as its gradient in the source.
    """
    (strength_y, angle_y), (strength_t, angle_t), edges_f = (
        _edges(image) for image in (luma, thermal, fused)
    )
    kept = _edge_preservation(strength_y, angle_y, *edges_f) * strength_y
    kept += _edge_preservation(strength_t, angle_t, *edges_f) * strength_t
    total = (strength_y + strength_t).sum()
    return float(kept.sum() / total) if total > 0 else 0.0


def ssim(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Structural similarity of the fused picture to each source, added; 2 for a perfect copy of both.

    Wang et al., IEEE TIP 13 (2004): 7x7 uniform windows, sample variances, K1 = 0.01, K2 = 0.03, range 255.
    """
    return _ssim(fused, luma) + _ssim(fused, thermal)


METRICS = {"VIF": vif, "Qabf": qabf, "SSIM": ssim, "SCD": scd}


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio in dB for grey levels 0..255; infinite for equal images."""
    error = np.mean((np.asarray(image, np.float64) - reference) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 1e-9 else 0.0


def _vif(reference: np.ndarray, distorted: np.ndarray) -> float:
    noise, eps = 2.0, 1e-10
    ref, dist = (np.asarray(image, np.float64) for image in (reference, distorted))
    information, ideal = 0.0, 0.0
    for scale, size in enumerate((17, 9, 5, 3)):
        kernel = cv2.getGaussianKernel(size, size / 5)

        def blur(image, kernel=kernel, margin=size // 2):
            return cv2.sepFilter2D(image, -1, kernel, kernel)[margin:-margin, margin:-margin]

        if scale:
            ref, dist = blur(ref)[::2, ::2], blur(dist)[::2, ::2]
        mean_r, mean_d = blur(ref), blur(dist)
        var_r = np.maximum(blur(ref * ref) - mean_r**2, 0)
        var_d = np.maximum(blur(dist * dist) - mean_d**2, 0)
        cov = blur(ref * dist) - mean_r * mean_d
        gain = cov / (var_r + eps)
        residual = var_d - gain * cov
        flat_r, flat_d = var_r < eps, var_d < eps
        gain[flat_r] = 0
        residual[flat_r] = var_d[flat_r]
        var_r[flat_r] = 0
        gain[flat_d] = 0
        residual[flat_d] = 0
        residual[gain < 0] = var_d[gain < 0]
        gain = np.maximum(gain, 0)
        residual = np.maximum(residual, eps)
        information += np.log10(1 + gain**2 * var_r / (residual + noise)).sum()
        ideal += np.log10(1 + var_r / noise).sum()
    return float(information / ideal) if ideal > 0 else 1.0


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = np.asarray(image, np.float64)
    gx, gy = (cv2.Sobel(image, -1, *order, borderType=cv2.BORDER_CONSTANT) for order in ((1, 0), (0, 1)))
    return np.hypot(gx, gy), np.arctan(gy / (gx + 1e-12))


def _edge_preservation(strength, angle, strength_f, angle_f) -> np.ndarray:
    low, high = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
    ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
    turn = 1 - np.abs(angle - angle_f) / (np.pi / 2)
    return 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (turn - 0.8)))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def mean(image):
        return cv2.blur(image, (7, 7))[3:-3, 3:-3]

    c1, c2, sample = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49 / 48
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = sample * (mean(a * a) - mean_a**2), sample * (mean(b * b) - mean_b**2)
    cov = sample * (mean(a * b) - mean_a * mean_b)
    return float(
        np.mean(
            (2 * mean_a * mean_b + c1)
            * (2 * cov + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    )
