"""Fusion metrics of the infrared-visible literature, on 8-bit grey levels (0..255).

Every function takes the fused picture and both sources, (H, W) arrays in grey levels of any numeric dtype,
and returns a float; larger is better. `luma` is Y of OpenCV's BGR -> YCrCb, `thermal` is the thermal image.
F, Y and T stand for the three. EN, SD, SF and AG look at F alone, so noise and a stretch raise them.

The windowed metrics work in float32 on centred images, which loses less than 0.05 % of the value.
"""

import cv2
import numpy as np

GREY_LEVELS = 256


def en(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Entropy of F in bits, 0..8: sum p log2(1/p) over the shares p of the grey levels.

    Roberts, van Aardt and Ahmed, J. Applied Remote Sensing 2 (2008).
    """
    return _entropy(np.bincount(_levels(fused).ravel()))


def sd(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Standard deviation of F over its pixels, in grey levels. Rao, Meas. Sci. Technol. 8 (1997)."""
    return float(np.std(fused, dtype=np.float64))


def sf(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Spatial frequency sqrt(RF^2 + CF^2), in grey levels per pixel.

    RF^2, CF^2: means of the squared differences of horizontal and of vertical neighbours.
    Eskicioglu and Fisher, "Image quality measures and their performance", IEEE Trans. Commun. 43 (1995).
    """
    f = np.asarray(fused, np.float64)
    return float(np.sqrt(sum(np.mean(np.diff(f, axis=axis) ** 2) for axis in (0, 1))))


def ag(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Average gradient: the sum of sqrt((dx^2 + dy^2) / 2) over (H - 1)(W - 1), in grey levels per pixel.

    dx, dy: central differences, at the border one-sided: MATLAB's gradient(), which the literature's code uses.
    Cui et al., "Detail preserved fusion of visible and infrared images", Opt. Commun. 341 (2015).
    """
    f = np.asarray(fused, np.float64)
    dy, dx = np.gradient(f, axis=0), np.gradient(f, axis=1)
    height, width = f.shape
    return float(np.sqrt((dx**2 + dy**2) / 2).sum() / ((height - 1) * (width - 1)))


def mi(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Mutual information in bits: I(F; Y) + I(F; T), I(A; B) = H(A) + H(B) - H(A, B), over 256 grey levels.

    Qu, Zhang and Yan, "Information measure for performance of image fusion", Electronics Letters 38 (2002).
    """
    return _mutual_information(fused, luma) + _mutual_information(fused, thermal)


def scd(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Sum of the correlations of differences: corr(F - T, Y) + corr(F - Y, T), -2..2.

    Aslantas and Bendes, "A new image quality metric for image fusion", AEU 69 (2015). A difference without
    contrast correlates with nothing: 0.
    """
    f, y, t = (np.asarray(image, np.float64) for image in (fused, luma, thermal))
    return _correlation(f - t, y) + _correlation(f - y, t)


def cc(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Correlation coefficient: (corr(F, Y) + corr(F, T)) / 2, -1..1, Pearson's, over the pixels.

    As surveyed by Ma, Ma and Li, "Infrared and visible image fusion methods", Information Fusion 45 (2019).
    """
    f, y, t = (np.asarray(image, np.float64) for image in (fused, luma, thermal))
    return (_correlation(f, y) + _correlation(f, t)) / 2


def vif(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Visual information fidelity of the fused picture for each source, added; 2 for a perfect copy of both.

    The pixel-domain form of Sheikh and Bovik, "Image information and visual quality", IEEE TIP 15 (2006):
    four scales, Gaussian windows, noise variance 2. With gain g = cov / var(source) per window, information
    log(1 + g^2 var(source) / (var(F) - g cov + 2)) over log(1 + var(source) / 2), each summed over windows
    and scales. Contrast enhancement can exceed 1 per source.
    """
    noise = 2.0
    information, ideal = np.zeros(2), np.zeros(2)
    images = [_centred(image) for image in (fused, luma, thermal)]
    for scale, size in enumerate((17, 9, 5, 3)):
        kernel = cv2.getGaussianKernel(size, size / 5, cv2.CV_32F)

        def blur(image, kernel=kernel, margin=size // 2):
            return cv2.sepFilter2D(image, -1, kernel, kernel)[margin:-margin, margin:-margin]

        if scale:
            images = [np.ascontiguousarray(blur(image)[::2, ::2]) for image in images]
        f, *sources = images
        mean_f = blur(f)
        var_f = np.maximum(blur(f * f) - mean_f**2, 0)
        for index, source in enumerate(sources):
            mean_s = blur(source)
            var_s = np.maximum(blur(source * source) - mean_s**2, 0)
            # A window that turned into its negative carries nothing: without covariance no gain.
            cov = np.maximum(blur(source * f) - mean_s * mean_f, 0)
            gain = cov / (var_s + 1e-6)
            residual = np.maximum(var_f - gain * cov, 0)
            information[index] += np.log(1 + gain**2 * var_s / (residual + noise)).sum(dtype=np.float64)
            ideal[index] += np.log(1 + var_s / noise).sum(dtype=np.float64)
    # A source without any contrast has nothing to lose.
    return float(np.divide(information, ideal, out=np.ones(2), where=ideal > 0).sum())


def qabf(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Share of the sources' edges (strength and direction) that survives in the fused picture, 0..1.

    Xydeas and Petrovic, "Objective image fusion performance measure", Electronics Letters 36 (2000), with
    Sobel gradients and the usual sigmoid constants; a pixel weighs as much as its gradient in the source.
    """
    edges_f = _edges(fused)
    kept, total = 0.0, 0.0
    for source in (luma, thermal):
        strength, angle = _edges(source)
        kept += (_edge_preservation(strength, angle, *edges_f) * strength).sum(dtype=np.float64)
        total += strength.sum(dtype=np.float64)
    return float(kept / total) if total > 0 else 0.0


def ssim(fused: np.ndarray, luma: np.ndarray, thermal: np.ndarray) -> float:
    """Structural similarity of the fused picture to each source, added; 2 for a perfect copy of both."""
    return similarity(fused, luma) + similarity(fused, thermal)


METRICS = {
    "EN": en, "SD": sd, "SF": sf, "AG": ag, "MI": mi, "SCD": scd, "CC": cc, "VIF": vif, "Qabf": qabf, "SSIM": ssim,
}  # fmt: skip
RANKED = ("VIF", "Qabf", "SSIM", "SCD", "MI")  # those that mean ranks use: what F keeps of both sources


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio in dB for grey levels 0..255; infinite for equal images."""
    error = np.mean((np.asarray(image, np.float64) - reference) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def similarity(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (SSIM) of two images, 1 for equal ones.

    Wang et al., IEEE TIP 13 (2004): 7x7 uniform windows, sample variances, K1 = 0.01, K2 = 0.03, range 255.
    """
    a, b = (np.asarray(image, np.float32) - 127.5 for image in (image, reference))

    def mean(image):
        return cv2.blur(image, (7, 7))[3:-3, 3:-3]

    c1, c2, sample = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49 / 48
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = sample * (mean(a * a) - mean_a**2), sample * (mean(b * b) - mean_b**2)
    cov = sample * (mean(a * b) - mean_a * mean_b)
    mean_a, mean_b = mean_a + 127.5, mean_b + 127.5
    agreement = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float(np.mean(agreement / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)), dtype=np.float64))


def _levels(image: np.ndarray) -> np.ndarray:
    """Whole grey levels, (H, W) uint8."""
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _entropy(counts: np.ndarray) -> float:
    """In bits, of a histogram."""
    shares = counts[counts > 0] / counts.sum()
    return float((shares * np.log2(1 / shares)).sum())


def _mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    joint_level = _levels(a).astype(np.int64) * GREY_LEVELS + _levels(b)
    joint = np.bincount(joint_level.ravel(), minlength=GREY_LEVELS**2).reshape(GREY_LEVELS, GREY_LEVELS)
    return _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    return float(np.vdot(a, b) / norm) if norm > 1e-9 else 0.0


def _centred(image: np.ndarray) -> np.ndarray:
    """float32 around 0, where float32 is exact enough for variances."""
    image = np.asarray(image, np.float32)
    return image - image.mean()


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient strength (grey levels, Sobel's scale) and direction (radians, -pi/2..pi/2)."""
    image = np.asarray(image, np.float32)
    gx, gy = (cv2.Sobel(image, -1, *order, borderType=cv2.BORDER_CONSTANT) for order in ((1, 0), (0, 1)))
    return cv2.magnitude(gx, gy), np.arctan(gy / (gx + 1e-12))


def _edge_preservation(strength, angle, strength_f, angle_f) -> np.ndarray:
    low, high = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
    ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
    turn = 1 - np.abs(angle - angle_f) / (np.pi / 2)
    return 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (turn - 0.8)))
