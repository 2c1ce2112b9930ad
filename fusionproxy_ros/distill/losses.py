"""Unsupervised fusion losses: what a fused luma should keep of its two sources.

All images are (N, 1, H, W) float32 in [0, 1]: F the fused luma, Y the RGB luma, T the thermal image. Every
loss is a scalar tensor, never negative.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Share of each term in fusion_loss."""

    intensity: float = 6.0
    gradient: float = 120.0
    structure: float = 0.5
    correlation: float = 0.05


def fusion_loss(fused: Tensor, luma: Tensor, thermal: Tensor, weights: Weights) -> Tensor:
    """The weighted sum of intensity, gradient, structure and correlation."""
    return (
        weights.intensity * intensity(fused, luma, thermal)
        + weights.gradient * gradient(fused, luma, thermal)
        + weights.structure * structure(fused, luma, thermal)
        + weights.correlation * correlation(fused, luma, thermal)
    )


def screen(luma: Tensor, thermal: Tensor) -> Tensor:
    """Luma lit up by what is warmer than its surroundings: 1 - (1 - Y)(1 - max(T - median(T), 0)).

    The median of each thermal image stands for the scene's background, so that a warm road puts no grey haze
    over a black night; the product ("screen" blending) never darkens a lamp and never saturates.
    """
    background = thermal.flatten(1).median(1).values[:, None, None, None]
    return 1 - (1 - luma) * (1 - (thermal - background).clamp(min=0))


def intensity(fused: Tensor, luma: Tensor, thermal: Tensor) -> Tensor:
    """Mean |B(F) - B(screen(Y, T))|, B a 7x7 box mean: brightness; detail is left to the other terms."""
    return (_box(fused) - _box(screen(luma, thermal))).abs().mean()


def gradient(fused: Tensor, luma: Tensor, thermal: Tensor) -> Tensor:
    """Mean |dF - dS|, horizontal plus vertical, S at each pixel the source with the larger |d|, sign kept.

    The joint gradient of SeAFusion (Tang et al., Information Fusion 82, 2022), but with its sign, so that an
    edge that is bright-to-dark in its source stays so.
    """
    total = fused.new_zeros(())
    for axis in (2, 3):
        of_fused, of_luma, of_thermal = (image.diff(dim=axis) for image in (fused, luma, thermal))
        stronger = torch.where(of_luma.abs() >= of_thermal.abs(), of_luma, of_thermal)
        total = total + (of_fused - stronger).abs().mean()
    return total


def structure(fused: Tensor, luma: Tensor, thermal: Tensor) -> Tensor:
    """2 - SSIM(F, Y) - SSIM(F, T), means over 7x7 uniform windows (Wang et al., IEEE TIP 13, 2004)."""
    mean_f, var_f = _moments(fused)
    total = fused.new_full((), 2.0)
    for source in (luma, thermal):
        mean_s, var_s = _moments(source)
        cov = _box(fused * source) - mean_f * mean_s
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mean_f * mean_s + c1) * (2 * cov + c2)
        similarity = similarity / ((mean_f**2 + mean_s**2 + c1) * (var_f + var_s + c2))
        total = total - similarity.mean()
    return total


def correlation(fused: Tensor, luma: Tensor, thermal: Tensor) -> Tensor:
    """2 - corr(F - T, Y) - corr(F - Y, T): metrics.scd, the sum of the correlations of differences."""
    return 2 - _correlation(fused - thermal, luma) - _correlation(fused - luma, thermal)


def identity_loss(fused: Tensor, luma: Tensor) -> Tensor:
    """Mean |F - Y|: what a useless thermal image asks for."""
    return (fused - luma).abs().mean()


def _box(image: Tensor) -> Tensor:
    """Mean over 7x7 windows inside the image, by running sums: a fifth of avg_pool2d's time on a CPU."""
    for axis, pad in ((2, (0, 0, 1, 0)), (3, (1, 0))):
        sums, inside = F.pad(image.cumsum(axis), pad), image.shape[axis] - 6
        image = (sums.narrow(axis, 7, inside) - sums.narrow(axis, 0, inside)) / 7
    return image


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    mean = _box(image)
    return mean, _box(image * image) - mean**2


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each image pair, averaged over the batch; 0 where one has no contrast."""
    a, b = (image.flatten(1) - image.flatten(1).mean(1, keepdim=True) for image in (a, b))
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)).mean()
