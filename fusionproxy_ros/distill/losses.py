"""What the student learns from an ensemble: the two signals of FusionProxy (arXiv:2605.06010), and identity.

Images are (N, 1, H, W) float32 in [0, 1]. Every loss is a scalar tensor, never negative.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-8  # far below that of one grey level, 1.5e-5: samples that all agree are all certain
ROUTING_SLACK = 1e-3  # relative; equal variances are all routed, whatever rounding made of their mean


def certainty(variance: Tensor) -> Tensor:
    """Pixel weights from the ensemble's variance in image space, (N, 1, H, W), of mean 1 in each picture.

    w = exp(-v / mean(v)) / mean(exp(-v / mean(v))). Certain pixels bind: those with no variance weigh most. Where
    samples contradict each other (v far above the mean) w falls to 0: their average is a picture that no sample
    shows, and the student is not forced to it. Constant variance gives 1 everywhere. Limit: the scale is the
    picture's own, so a picture in which everything is uncertain binds as much as one in which nothing is.
    """
    weight = torch.exp(-variance / variance.mean((2, 3), keepdim=True).clamp(min=VARIANCE_FLOOR))
    return weight / weight.mean((2, 3), keepdim=True)


def pixel_loss(fused: Tensor, mean: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean w |F - M|, M the ensemble's mean; plain L1 without weight."""
    error = (fused - mean).abs()
    return (error if weight is None else weight * error).mean()


def routed(variance: Tensor) -> Tensor:
    """(N, 1, h, w) of 0 and 1: where the samples' features vary no more than on average over the picture.

    There the backbone reads the same in every sample, and features are aligned, also where pixels disagree;
    elsewhere no meaning is agreed on, and nothing is asked. Constant variance routes everything. Limit: as of
    `certainty`, the threshold is the picture's own; between a half and all of a picture is routed as a rule.
    """
    return (variance <= variance.mean((2, 3), keepdim=True) * (1 + ROUTING_SLACK)).float()


def feature_loss(
    fused: Mapping[str, Tensor], mean: Mapping[str, Tensor], route: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Mean over layers of |f - m|^2 / |m|^2, sums over channels and the places routed; all without `route`.

    fused, mean: {layer: (N, C, h, w)} features of the student's picture, and mean features of the samples.
    route: {layer: (N, 1, h, w)}. A layer's scale cancels; a layer with nothing routed adds 0.
    """
    losses = []
    for layer, target in mean.items():
        error, power = (fused[layer] - target).square().sum(1, True), target.square().sum(1, True)
        if route is not None:
            error, power = error * route[layer], power * route[layer]
        losses.append(error.sum() / power.sum().clamp(min=1e-6))
    return torch.stack(losses).mean()


def identity_loss(fused: Tensor, luma: Tensor) -> Tensor:
    """Mean |F - Y|: what a useless thermal image asks for."""
    return (fused - luma).abs().mean()
