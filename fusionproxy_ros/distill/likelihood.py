"""What the two sources ask of a fused picture: a likelihood, and what to show in the dark.

The likelihood is the teacher's data term, and an unsupervised loss. Its images are (N, 1, H, W) float32 in [0, 1], H
and W at least 28: F the fused luma, Y the RGB luma, T the thermal image.

A likelihood weighs all of a picture alike, and draws thermal's background wherever RGB is black. RGB detectors find
people by less: a dark road with a person on it, not a road of two textures. So `at_night` has the last word.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BOX_PX = 7  # side of the windows of local statistics
SCALES = 3  # of information: full, half and quarter resolution
SCALE_SHARE = 0.25  # of the windows at a scale, relative to the one before
LATENT_CELL_PX = 32  # distance over which a latent field changes
FAVOUR_DEVIATION = 0.4  # of the latent log-ratio by which one source's edges are favoured
NOISE = 2 / 255**2  # variance of the visual noise in VIF
SURROUNDINGS_PX, DETAIL_PX = 30, 6  # deviations of Gaussians
DARK_BEGINS, DARK_COMPLETE = 80 / 255, 40 / 255  # luma of surroundings
WARM_BEGINS, WARM_COMPLETE = 10 / 255, 40 / 255  # thermal above its surroundings
KEPT_DETAIL = 0.5  # of RGB's detail that stays on what is warm


@dataclass(frozen=True)
class TermWeights:
    """Share of each term in Likelihood.energy."""

    light: float = 5.0
    gradient: float = 45.0
    structure: float = 1.0
    correlation: float = 0.5
    information: float = 2.0


class Latent(NamedTuple):
    """What the sources do not tell, and each sample of the teacher decides by itself: smooth random fields.

    addition: (N, 1, H, W) in [0, 1]: does warmth add to light (1) or take its place where it is stronger (0)?
    favour: (N, 1, H, W): natural logarithm by which luma's edges count more than thermal's.
    """

    addition: Tensor | float = 0.5
    favour: Tensor | float = 0.0


TERM_WEIGHTS = TermWeights()
UNDECIDED = Latent()


def draw_latent(size: tuple[int, int], rng: np.random.Generator) -> Latent:
    """One draw for a picture of (height, width)."""
    cells = [max(2, round(extent / LATENT_CELL_PX)) for extent in size]
    addition, favour = (
        F.interpolate(torch.from_numpy(field.astype(np.float32))[None, None], size, mode="bilinear")
        for field in (rng.random(cells), rng.normal(0, FAVOUR_DEVIATION, cells))
    )
    return Latent(addition, favour)


def warmth(thermal: Tensor) -> Tensor:
    """max(T - median(T), 0): what is warmer than the scene's background, so that a warm road is no grey haze."""
    background = thermal.flatten(1).median(1).values[:, None, None, None]
    return (thermal - background).clamp(min=0)


def lit(luma: Tensor, thermal: Tensor, addition: Tensor | float = 0.5) -> Tensor:
    """Luma lit by warmth W: between max(Y, W) at addition 0 and "screen" 1 - (1 - Y)(1 - W) at addition 1.

    Neither darkens a lamp; the first keeps each source's own levels, the second the detail of both.
    """
    warm = warmth(thermal)
    replaced = torch.maximum(luma, warm)
    return replaced + addition * (1 - (1 - luma) * (1 - warm) - replaced)


class Likelihood:
    """Energy (negative log-likelihood up to a constant) of fused pictures under luma, thermal and latent.

    The sources' statistics are computed once; energy() may then be asked often.
    """

    def __init__(
        self, luma: Tensor, thermal: Tensor, latent: Latent = UNDECIDED, weights: TermWeights = TERM_WEIGHTS
    ):
        self.weights = weights
        self._lit = lit(luma, thermal, latent.addition)
        self._stronger = [
            _stronger(luma.diff(dim=axis), thermal.diff(dim=axis), _crop_like_diff(latent.favour, axis))
            for axis in (2, 3)
        ]
        self._sources = (luma, thermal)
        self._moments = []
        ideal = [torch.zeros(len(luma), device=luma.device) for _ in range(2)]
        for scale in range(SCALES):
            of_sources = [(source, *_moments(source)) for source in (luma, thermal)]
            self._moments.append(of_sources)
            for index, (_, _, variance) in enumerate(of_sources):
                ideal[index] = ideal[index] + SCALE_SHARE**scale * torch.log1p(variance / NOISE).mean(
                    (1, 2, 3)
                )
            luma, thermal = F.avg_pool2d(luma, 2), F.avg_pool2d(thermal, 2)
        self._ideal = ideal

    def energy(self, fused: Tensor) -> Tensor:
        """(N,) weighted sum of the five terms, each (N,)."""
        w = self.weights
        structure, information = self._local(fused)
        return (
            w.light * (fused - self._lit).abs().mean((1, 2, 3))
            + w.gradient * self._gradient(fused)
            + w.structure * structure
            + w.correlation * self._correlation(fused)
            + w.information * information
        )

    def _gradient(self, fused: Tensor) -> Tensor:
        """Mean |dF - dS|, horizontal plus vertical, S at each pixel the source with the larger |d|, sign kept.

        The joint gradient of SeAFusion (Tang et al., Information Fusion 82, 2022), but with its sign, so that an
        edge that is bright-to-dark in its source stays so.
        """
        vertical, horizontal = (
            (fused.diff(dim=axis) - stronger).abs().mean((1, 2, 3))
            for axis, stronger in zip((2, 3), self._stronger, strict=True)
        )
        return vertical + horizontal

    def _correlation(self, fused: Tensor) -> Tensor:
        """2 - corr(F - T, Y) - corr(F - Y, T): fusion_metrics.scd, the sum of the correlations of differences."""
        luma, thermal = self._sources
        return 2 - _correlation(fused - thermal, luma) - _correlation(fused - luma, thermal)

    def _local(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Structure and information, from the same local moments.

        structure: 2 - SSIM(F, Y) - SSIM(F, T), means over windows (Wang et al., IEEE TIP 13, 2004).
        information: 2 minus, for each source S, the share of S's information that F carries: VIF (Sheikh and
            Bovik, IEEE TIP 15, 2006) with box windows and averaged halves instead of Gaussians.
        """
        structure = information = fused.new_full((len(fused),), 2.0)
        carried = [fused.new_zeros(len(fused)) for _ in range(2)]
        for scale, of_sources in enumerate(self._moments):
            if scale:
                fused = F.avg_pool2d(fused, 2)
            mean_f, var_f = _moments(fused)
            for index, (source, mean_s, var_s) in enumerate(of_sources):
                cov = _box(fused * source) - mean_f * mean_s
                if not scale:
                    c1, c2 = 0.01**2, 0.03**2
                    similarity = (2 * mean_f * mean_s + c1) * (2 * cov + c2)
                    similarity = similarity / ((mean_f**2 + mean_s**2 + c1) * (var_f + var_s + c2))
                    structure = structure - similarity.mean((1, 2, 3))
                gain = (cov / (var_s + 1e-5)).clamp(min=0)
                residual = (var_f - gain * cov).clamp(min=0)
                kept = torch.log1p(gain**2 * var_s / (residual + NOISE))
                carried[index] = carried[index] + SCALE_SHARE**scale * kept.mean((1, 2, 3))
        for of_fused, of_source in zip(carried, self._ideal, strict=True):
            information = information - of_fused / of_source.clamp(min=1e-3)
        return structure, information


def at_night(luma: np.ndarray, thermal: np.ndarray, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `fused` becomes in the dark, and where that is because of warmth; all (H, W) float32 in [0, 1].

    fused, and so what becomes of it, may be (K, H, W).

    With Y luma, T thermal, F fused, G_s a Gaussian of deviation s, and ramp(x) = x cut to [0, 1]:

        dark = ramp((DARK_BEGINS - G_30 Y) / (DARK_BEGINS - DARK_COMPLETE))
        warm = dark ramp((T - G_30 T - WARM_BEGINS) / (WARM_COMPLETE - WARM_BEGINS))
        calm = F + dark (Y - F), result = calm + warm (T + (Y - G_6 Y) / 2 - calm)

    So a lit place stays as it is, the dark becomes RGB's, and what is warm in it thermal's, with RGB's detail on top.
    """

    def blurred(image, deviation_px):
        return cv2.GaussianBlur(image, (0, 0), deviation_px)

    dark = np.clip((DARK_BEGINS - blurred(luma, SURROUNDINGS_PX)) / (DARK_BEGINS - DARK_COMPLETE), 0, 1)
    above = thermal - blurred(thermal, SURROUNDINGS_PX)
    warm = dark * np.clip((above - WARM_BEGINS) / (WARM_COMPLETE - WARM_BEGINS), 0, 1)
    calm = fused + dark * (luma - fused)
    shown = thermal + KEPT_DETAIL * (luma - blurred(luma, DETAIL_PX))
    return np.clip(calm + warm * (shown - calm), 0, 1), warm.astype(np.float32)


def _stronger(of_luma: Tensor, of_thermal: Tensor, favour: Tensor | float) -> Tensor:
    gain = favour.exp() if isinstance(favour, Tensor) else 1.0
    return torch.where(of_luma.abs() * gain >= of_thermal.abs(), of_luma, of_thermal)


def _crop_like_diff(field: Tensor | float, axis: int) -> Tensor | float:
    return field.narrow(axis, 1, field.shape[axis] - 1) if isinstance(field, Tensor) else field


def _box(image: Tensor) -> Tensor:
    """Mean over windows inside the image, by running sums: a fifth of avg_pool2d's time on a CPU."""
    for axis, pad in ((2, (0, 0, 1, 0)), (3, (1, 0))):
        sums, inside = F.pad(image.cumsum(axis), pad), image.shape[axis] - BOX_PX + 1
        image = (sums.narrow(axis, BOX_PX, inside) - sums.narrow(axis, 0, inside)) / BOX_PX
    return image


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    mean = _box(image)
    return mean, (_box(image * image) - mean**2).clamp(min=0)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(N,) Pearson correlation of each image pair; 0 where one has no contrast."""
    a, b = (image.flatten(1) - image.flatten(1).mean(1, keepdim=True) for image in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)
