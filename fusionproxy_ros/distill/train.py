"""Train a student on the teacher's ensembles, or without a teacher.

    python -m fusionproxy_ros.distill.train --ensembles out/distill/train --out out/distill/full.safetensors

--method names what is learned from: "full", the ablations of it, and "unsupervised", nothing. Runs on a
CPU, a GPU, or under torchrun on many. Killed, it goes on where it was.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.alignment.contrast_limit import tolerated_contrast, with_contrast
from fusionproxy_ros.core.pictures import to_grey_levels
from fusionproxy_ros.distill.backbones import Backbone, load_backbone
from fusionproxy_ros.distill.data import (
    NO_DATA,
    Example,
    PairFile,
    default_pairs,
    find_pairs,
    load,
    split,
    to_tensor,
)
from fusionproxy_ros.distill.ensemble import Ensemble, crop_under_conditions, load_ensembles
from fusionproxy_ros.distill.likelihood import Likelihood
from fusionproxy_ros.distill.losses import certainty, feature_loss, identity_loss, pixel_loss, routed
from fusionproxy_ros.distill.training_loop import device_here, fit, process_here
from fusionproxy_ros.fusion.gain_control import sample_step, to_uint8
from fusionproxy_ros.fusion.network import Student, load_student, save_student
from fusionproxy_ros.metrics.classical import Fuse
from fusionproxy_ros.metrics.fusion_metrics import RANKED
from fusionproxy_ros.metrics.scores import mean_scores, scores_of_pair

BATCH = 6
STUDENT_LEARNING_RATE = 2e-3
LIKELIHOOD_WEIGHT = 0.05
FEATURE_WEIGHT = 0.05
IDENTITY_WEIGHT = 0.5
DEAD_SHARE = 0.15  # of the examples: thermal is a constant with slight noise, and the answer is luma
ELDER_SHARE = 0.5  # of the batches, where there is an elder student
PARTIAL_SHARE = 0.25  # of the examples: the thermal camera sees only part of the RGB image
LICENCE = (
    "trained on the data named here: MSRS and RoadScene state no licence and ask to be cited, M3SVD is MIT, M3FD came "
    "by way of several repositories; retrain on your own pairs where you need clean terms"
)
LUMA_NOISE, THERMAL_NOISE = 0.02, 0.006  # largest deviations of the noise added to the sources


@dataclass(frozen=True)
class TrainingMethod:
    """What is learned from the teacher: pixels "weighted" or "plain", features "routed" or "plain", "" for neither."""

    pixels: str = ""
    features: str = ""


TRAINING_METHODS = {
    "full": TrainingMethod("weighted", "routed"),
    "no-pixel-weighting": TrainingMethod("plain", "routed"),
    "no-feature-routing": TrainingMethod("weighted", "plain"),
    "mean-regression": TrainingMethod("plain"),
    "unsupervised": TrainingMethod(),
}


@dataclass(frozen=True)
class Batch:
    """Images (N, 1, H, W) float32 in [0, 1]; dead (N,) bool; of live examples alone: weight and features by layer.

    luma, thermal, trust: sources and how far thermal is to be trusted. noise: (N, 2, H, W), what the student sees on
    top of luma and thermal. mean, variance: the ensembles'. feature_mean, feature_variance: {layer: (N, C, h, w)},
    {layer: (N, 1, h, w)}.
    """

    luma: Tensor
    thermal: Tensor
    trust: Tensor
    noise: Tensor
    mean: Tensor
    variance: Tensor
    dead: Tensor
    feature_mean: dict[str, Tensor]
    feature_variance: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.luma.to(device),
            self.thermal.to(device),
            self.trust.to(device),
            self.noise.to(device),
            self.mean.to(device),
            self.variance.to(device),
            self.dead.to(device),
            {layer: tensor.to(device) for layer, tensor in self.feature_mean.items()},
            {layer: tensor.to(device) for layer, tensor in self.feature_variance.items()},
        )


def draw_ensembles(ensembles: Sequence[Ensemble], rng: np.random.Generator) -> list[Ensemble]:
    return [ensembles[i] for i in rng.integers(0, len(ensembles), BATCH)]


@torch.inference_mode()
def answered_by(elder: Student, examples: Sequence[Example], rng: np.random.Generator) -> list[Ensemble]:
    """BATCH fresh crops under bad conditions, and the elder student's answers: as of samples that all agree."""
    result = []
    for index in rng.integers(0, 2**31, BATCH):
        id, luma, thermal = crop_under_conditions(examples, int(index), int(rng.integers(2**31)))
        fused = elder(to_tensor(luma), to_tensor(thermal))[0, 0]
        sources = torch.from_numpy(luma), torch.from_numpy(thermal)
        result.append(Ensemble(id, *sources, fused, torch.zeros_like(fused)))
    return result


def batch_of(chosen: Sequence[Ensemble], rng: np.random.Generator) -> Batch:
    """These BATCH ensembles with what only the student meets: noise, thermal that is dead or sees part of the view."""

    def stacked(images: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(images)).float()

    luma = stacked(e.luma for e in chosen)[:, None] / 255
    thermal = stacked(e.thermal for e in chosen)[:, None] / 255
    dead = torch.from_numpy(rng.random(BATCH) < DEAD_SHARE)
    trust = torch.ones_like(luma)
    height, width = luma.shape[-2:]
    for index in range(BATCH):
        if dead[index]:
            thermal[index] = rng.uniform(0, 1)
        elif rng.random() < PARTIAL_SHARE:
            trust[index, :, : int(rng.integers(0, height // 3))] = 0
            trust[index, :, :, width - int(rng.integers(0, width // 3)) :] = 0
    deviation = rng.uniform(0, (LUMA_NOISE, THERMAL_NOISE), (BATCH, 2)).astype(np.float32)
    noise = deviation[..., None, None] * rng.standard_normal((BATCH, 2, height, width), np.float32)
    layers = chosen[0].feature_mean
    return Batch(
        luma,
        thermal,
        trust,
        torch.from_numpy(noise),
        stacked(e.mean for e in chosen)[:, None],
        stacked(e.variance for e in chosen)[:, None],
        dead,
        {layer: stacked(e.feature_mean[layer] for e in chosen) for layer in layers},
        {layer: stacked(e.feature_variance[layer] for e in chosen)[:, None] for layer in layers},
    )


def loss_of_batch(
    student: nn.Module,
    batch: Batch,
    method: TrainingMethod,
    backbone: Backbone | None,
    pixel_weight: Tensor | None = None,
    likelihood_weight: float | None = None,
) -> Tensor:
    """The training loss.

    pixel_weight: (N, 1, H, W), for a method whose pixels are weighted; `certainty` of the ensembles if not given.
    likelihood_weight: LIKELIHOOD_WEIGHT if not given.

    Dead thermal asks for luma. Live thermal asks for what the method learns from the teacher, and, by every method, for
    what is likely (the teacher's own data term): ablations differ in the teacher's signals alone. RGB's noise is to
    stay in the picture, since a student that damps it blurs; thermal's is not.
    """
    seen_luma, seen_thermal = (
        (torch.cat([batch.luma, batch.thermal], 1) + batch.noise).clamp(0, 1).split(1, 1)
    )
    fused = student(seen_luma, seen_thermal, batch.trust)
    live, share = ~batch.dead, batch.dead.float().mean()
    loss = fused.new_zeros(())
    if batch.dead.any():
        loss = loss + IDENTITY_WEIGHT * share * identity_loss(fused[batch.dead], seen_luma[batch.dead])
    if not live.any():
        return loss
    fused, luma, trust = fused[live], seen_luma[live], batch.trust[live]
    thermal = torch.lerp(luma, batch.thermal[live], trust)  # outside its view, luma stands for thermal too
    share_of_likelihood = LIKELIHOOD_WEIGHT if likelihood_weight is None else likelihood_weight
    loss = loss + share_of_likelihood * (1 - share) * Likelihood(luma, thermal).energy(fused).mean()
    if method.pixels:
        weight = trust
        if method.pixels == "weighted":
            weight = trust * (certainty(batch.variance[live]) if pixel_weight is None else pixel_weight[live])
        wanted = batch.mean[live] + luma - batch.luma[live]
        loss = loss + (1 - share) * pixel_loss(fused, wanted, weight)
    if method.features and backbone is not None and batch.feature_mean:
        inside = {
            layer: F.adaptive_avg_pool2d(trust, (m.shape[-2], m.shape[-1])) == 1
            for layer, m in batch.feature_mean.items()
        }
        route = {
            layer: inside[layer] * (routed(variance[live]) if method.features == "routed" else 1.0)
            for layer, variance in batch.feature_variance.items()
        }
        meant = {layer: mean[live] for layer, mean in batch.feature_mean.items()}
        loss = loss + FEATURE_WEIGHT * (1 - share) * feature_loss(backbone(fused), meant, route)
    return loss


def train_student(
    ensembles: Sequence[Ensemble],
    method: str,
    steps: int,
    seed: int,
    state: Path,
    widths: tuple[int, int, int],
    elder: Student | None = None,
    examples: Sequence[Example] = (),
) -> Student:
    """A student; resumes from `state` where a run was killed.

    elder: a larger student of the same ensembles, which answers ELDER_SHARE of the batches: crops of `examples`.
    """
    backbone = ensembles[0].backbone
    frozen = load_backbone(backbone).to(device_here()) if TRAINING_METHODS[method].features else None

    def loss_of(student: nn.Module, rng: np.random.Generator, device: torch.device) -> Tensor:
        if elder is not None and rng.random() < ELDER_SHARE:
            chosen = answered_by(elder, examples, rng)
        else:
            chosen = draw_ensembles(ensembles, rng)
        return loss_of_batch(student, batch_of(chosen, rng).to(device), TRAINING_METHODS[method], frozen)

    torch.manual_seed(seed)
    settings = {"method": method, "ensembles": len(ensembles), "backbone": backbone, "widths": list(widths)}
    if elder is not None:
        settings["elder"] = list(elder.widths)
    return fit(Student(widths), loss_of, steps, seed, STUDENT_LEARNING_RATE, state, settings)


def student_fuse(student: Student) -> Fuse:
    """The student as a function on 8-bit images; as Fuser does it with a still, contrast limit included."""

    @torch.inference_mode()
    def fuse(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
        step = sample_step(luma.size)
        contrast = tolerated_contrast(luma[::step, ::step], thermal[::step, ::step])
        thermal = to_uint8(thermal, *with_contrast(0, 255, contrast))
        return to_grey_levels(student(to_tensor(luma), to_tensor(thermal))[0, 0].numpy())

    return fuse


def held_out_metrics(student: Student, pairs: Sequence[PairFile]) -> dict[str, float]:
    """Mean of each ranked metric over pairs kept out of training."""
    fuse = {"student": student_fuse(student)}
    of_pairs = [
        scores_of_pair(example.luma, example.thermal, fuse, RANKED)
        for example in map(load, tqdm(pairs, "measure", unit="pair"))
    ]
    return {metric: round(value, 4) for metric, value in mean_scores(of_pairs)["student"].items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a student. Killed, it goes on where it was.")
    parser.add_argument("--ensembles", type=Path, required=True, help="folder that distill.ensemble filled")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write (.safetensors)")
    parser.add_argument("--method", choices=TRAINING_METHODS, default="full", help="what is learned from")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--widths", type=int, nargs=3, default=[16, 32, 64], help="channels at 1/4, 1/8, 1/16"
    )
    parser.add_argument(
        "--data", type=Path, default=default_pairs(), help="of its held-out pairs the metrics are noted"
    )
    parser.add_argument(
        "--elder", type=Path, help="a larger student, which answers fresh crops of --data for a smaller one"
    )
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    data = o.data or parser.error(NO_DATA)
    training, held_out = split(find_pairs(data))
    ensembles = load_ensembles(o.ensembles)
    elder = load_student(o.elder) if o.elder else None
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")] if elder else []
    state = o.out.with_suffix(".state")
    student = train_student(ensembles, o.method, o.steps, o.seed, state, tuple(o.widths), elder, examples)
    if process_here()[0] > 0:
        return
    fresh = f", and fresh ones of {len(training)} pairs that {o.elder.stem} answers" if elder else ""
    described = {
        "data": f"{len(ensembles)} crops of {len({e.id for e in ensembles})} pairs{fresh}",
        "teacher": "none: unsupervised" if o.method == "unsupervised" else ensembles[0].teacher,
        "metrics": f"{json.dumps(held_out_metrics(student, held_out))} on {len(held_out)} held-out pairs",
        "method": o.method,
        "steps": str(o.steps),
        "seed": str(o.seed),
        "licence": LICENCE,
    }
    save_student(student, o.out, described)


if __name__ == "__main__":
    main()
