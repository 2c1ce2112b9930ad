"""Train the unsupervised first student.

python -m fusionproxy_ros.distill.train --data ../shared/data/pairs
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusionproxy_ros.distill.data import (
    DATA,
    Example,
    PairFile,
    find_pairs,
    load,
    split,
    to_grey_levels,
    to_tensor,
)
from fusionproxy_ros.distill.losses import Weights, fusion_loss, identity_loss
from fusionproxy_ros.distill.metrics import METRICS
from fusionproxy_ros.student import DEFAULT_STUDENT, Student, save_student

CROP_PX = 256
BATCH = 6
LEARNING_RATE = 2e-3
MAX_SHIFT_PX = 6  # thermal against RGB, on top of the data's own misalignment
DEAD_SHARE = 0.15  # of the examples: thermal is a constant with slight noise, and the answer is luma
PARTIAL_SHARE = 0.25  # of the examples: the thermal camera sees only part of the RGB image
IDENTITY_WEIGHT = 10.0
LOG_EVERY = 50

METADATA = {
    "teacher": "none: unsupervised fusion loss",
    "licence": "trained on MSRS and RoadScene (no licence stated, citation asked), M3SVD (MIT) and M3FD (by way "
    "of several repositories); retrain on your own pairs where you need clean terms",
}


@dataclass(frozen=True)
class Batch:
    """luma, thermal, weight: (N, 1, CROP_PX, CROP_PX) float32 in [0, 1]. dead: (N,) bool."""

    luma: Tensor
    thermal: Tensor
    weight: Tensor
    dead: Tensor


def augment(example: Example, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """One random crop of a pair: luma, thermal, weight as (CROP_PX, CROP_PX) float32 in [0, 1], and dead."""
    luma, thermal = example.luma, example.thermal
    scale = max(rng.uniform(0.6, 1.2), (CROP_PX + 2 * MAX_SHIFT_PX) / min(luma.shape))
    size = [round(side * scale) for side in reversed(luma.shape)]
    luma, thermal = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (luma, thermal))
    top, left = (int(rng.integers(MAX_SHIFT_PX, side - CROP_PX - MAX_SHIFT_PX + 1)) for side in luma.shape)
    down, right = rng.integers(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, 2) if rng.random() < 0.5 else (0, 0)
    luma = luma[top : top + CROP_PX, left : left + CROP_PX]
    thermal = thermal[top + down : top + down + CROP_PX, left + right : left + right + CROP_PX]
    if rng.random() < 0.5:
        luma, thermal = luma[:, ::-1], thermal[:, ::-1]

    luma = (luma / 255) ** rng.uniform(0.7, 1.6) * rng.uniform(0.6, 1.0)
    dead = rng.random() < DEAD_SHARE
    if dead:
        thermal = rng.uniform(0, 1) + rng.normal(0, rng.uniform(0, 0.01), luma.shape)
    else:
        gain = rng.uniform(0.6, 1.0)
        thermal = gain * (thermal / 255) + rng.uniform(0, 1 - gain)

    weight = np.ones(luma.shape, np.float32)
    if rng.random() < PARTIAL_SHARE:
        margins = rng.integers(0, CROP_PX // 3, 2)
        weight[: margins[0]] = 0
        weight[:, CROP_PX - margins[1] :] = 0
    return luma.clip(0, 1), thermal.clip(0, 1), weight, dead


def draw_batch(examples: Sequence[Example], rng: np.random.Generator) -> Batch:
    """BATCH augmented crops, each set (not each pair) equally often."""
    sets = sorted({example.file.set for example in examples})
    chosen = rng.choice(sets, BATCH)
    crops = []
    for name in chosen:
        members = [example for example in examples if example.file.set == name]
        crops.append(augment(members[rng.integers(len(members))], rng))
    *images, dead = zip(*crops, strict=True)
    stacked = [torch.from_numpy(np.stack(image).astype(np.float32)[:, None]) for image in images]
    return Batch(*stacked, torch.tensor(dead))


def loss_of(student: Student, batch: Batch, weights: Weights) -> Tensor:
    """The training loss of one batch. Outside the thermal view luma stands for both sources."""
    fused = student(batch.luma, batch.thermal, batch.weight)
    loss = fused.new_zeros(())
    if batch.dead.any():
        share = batch.dead.float().mean()
        loss = loss + IDENTITY_WEIGHT * share * identity_loss(fused[batch.dead], batch.luma[batch.dead])
    alive = ~batch.dead
    if alive.any():
        thermal = torch.lerp(batch.luma, batch.thermal, batch.weight)
        loss = loss + alive.float().mean() * fusion_loss(
            fused[alive], batch.luma[alive], thermal[alive], weights
        )
    return loss


def train(
    examples: Sequence[Example],
    steps: int,
    seed: int,
    minutes: float = float("inf"),
    log: TextIO | None = None,
) -> Student:
    """A student after `steps` steps or `minutes` minutes, whichever ends first (only steps are reproducible).

    log: gets a line every LOG_EVERY steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    student, weights = Student(), Weights()
    optimiser = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=1e-4)
    start, recent = time.monotonic(), []
    for step in (bar := tqdm(range(1, steps + 1), "train", unit="step")):
        done = max(step / steps, (time.monotonic() - start) / 60 / minutes)
        if done > 1:
            break
        for group in optimiser.param_groups:  # warm up, then a cosine down to zero
            group["lr"] = LEARNING_RATE * min(1, step / 100) * 0.5 * (1 + np.cos(np.pi * done))
        loss = loss_of(student, draw_batch(examples, rng), weights)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        recent.append(loss.item())
        if step % LOG_EVERY == 0 or step == steps:
            bar.set_postfix(loss=f"{np.mean(recent):.4f}")
            if log:
                print(f"step {step} loss {np.mean(recent):.4f}", file=log, flush=True)
            recent = []
    return student.eval()


@torch.inference_mode()
def held_out_metrics(student: Student, pairs: Sequence[PairFile]) -> dict[str, float]:
    """Mean of each metric over the pairs kept out of training."""
    totals = dict.fromkeys(METRICS, 0.0)
    for example in map(load, tqdm(pairs, "measure", unit="pair")):
        luma, thermal = example.luma, example.thermal
        fused = to_grey_levels(student(to_tensor(luma), to_tensor(thermal))[0, 0].numpy())
        for name, metric in METRICS.items():
            totals[name] += metric(fused, luma, thermal) / len(pairs)
    return {name: round(total, 4) for name, total in totals.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the unsupervised first student.")
    parser.add_argument("--data", type=Path, default=DATA / "pairs", help="folder of SET/{rgb,thermal}/ID.*")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_STUDENT, help="checkpoint to write (.safetensors)"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so long, if before --steps"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    training, held_out = split(find_pairs(options.data))
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out.with_suffix(".log"), "w") as log:
        print(f"training {len(training)} held out {len(held_out)} weights {asdict(Weights())}", file=log)
        student = train(examples, options.steps, options.seed, options.minutes, log)
    described = {
        "data": f"{len(training)} pairs of {', '.join(sorted({pair.set for pair in training}))}",
        "metrics": f"{json.dumps(held_out_metrics(student, held_out))} on {len(held_out)} held-out pairs",
        "steps": str(options.steps),
        "seed": str(options.seed),
    }
    save_student(student, options.out, METADATA | described)


if __name__ == "__main__":
    main()
