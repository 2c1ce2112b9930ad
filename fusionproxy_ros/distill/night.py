"""Fine-tune a trained student for the night: what is warm in the dark counts most.

    python -m fusionproxy_ros.distill.night --student out/elder/8-24-48.safetensors --out out/night.safetensors

The teacher shows it so (likelihood.at_night), but warm pixels in the dark are rare, so the mean loss of train.py hardly
counts them. Here a trained student goes on, from its own answers to fresh crops, changed by `at_night`, with those
pixels weighing more. By day nothing is asked of it but what it does. Killed, it goes on where it was.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.distill.data import NO_DATA, Example, default_pairs, find_pairs, load, split
from fusionproxy_ros.distill.ensemble import Ensemble
from fusionproxy_ros.distill.likelihood import at_night
from fusionproxy_ros.distill.train import (
    TrainingMethod,
    answered_by,
    batch_of,
    held_out_metrics,
    loss_of_batch,
)
from fusionproxy_ros.distill.training_loop import fit, process_here
from fusionproxy_ros.fusion.network import Student, save_student, student_of
from fusionproxy_ros.fusion.weights import read_weights

NIGHT_LEARNING_RATE = 2e-3
NIGHT_LIKELIHOOD_WEIGHT = 0.03
EXTRA_WEIGHT = 60.0  # of a warm pixel in the dark, over that of others: people are few pixels
WARM_MARGIN_PX = 7  # side of the square around a warm pixel that weighs as much
PIXELS_ALONE = TrainingMethod("weighted")


@dataclass(frozen=True, eq=False)
class NightAnswer(Ensemble):
    """The answer to one crop as it should be at night: `mean`.

    near_warm: (H, W) float32 in [0, 1], 1 near what is warm in the dark.
    """

    near_warm: Tensor = field(kw_only=True)


def answers(elder: Student, examples: Sequence[Example], rng: np.random.Generator) -> list[NightAnswer]:
    """A batch of fresh crops, and the elder's answers to them, at night as they should be."""

    def changed(e: Ensemble) -> NightAnswer:
        luma, thermal = (plane.numpy().astype(np.float32) / 255 for plane in (e.luma, e.thermal))
        mean, warm = at_night(luma, thermal, e.mean.numpy())
        near = torch.from_numpy(cv2.dilate(warm, np.ones((WARM_MARGIN_PX, WARM_MARGIN_PX))))
        return NightAnswer(e.id, e.luma, e.thermal, torch.from_numpy(mean), e.variance, near_warm=near)

    return [changed(e) for e in answered_by(elder, examples, rng)]


def warm_pixel_weight(near_warm: Tensor) -> Tensor:
    """Pixel weights, (N, 1, H, W), of mean 1 in each picture."""
    weight = 1 + EXTRA_WEIGHT * near_warm
    return weight / weight.mean((2, 3), keepdim=True)


def fine_tune(
    student: Student, name: str, examples: Sequence[Example], steps: int, seed: int, state: Path
) -> Student:
    """A copy of the student `name` that has learned it; resumes from `state` where a run was killed."""

    def loss_of(pupil: nn.Module, rng: np.random.Generator, device: torch.device) -> Tensor:
        wanted = answers(student, examples, rng)
        batch = batch_of(wanted, rng).to(device)
        weight = warm_pixel_weight(torch.stack([one.near_warm for one in wanted])[:, None].to(device))
        return loss_of_batch(pupil, batch, PIXELS_ALONE, None, weight, NIGHT_LIKELIHOOD_WEIGHT)

    pupil = copy.deepcopy(student).requires_grad_(True).train()
    return fit(pupil, loss_of, steps, seed, NIGHT_LEARNING_RATE, state, {"lesson": "night", "student": name})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Teach a trained student what to show at night.")
    parser.add_argument("--student", type=Path, required=True, help="checkpoint (.safetensors) to go on from")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write (.safetensors)")
    parser.add_argument("--data", type=Path, default=default_pairs())
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    data = o.data or parser.error(NO_DATA)
    weights = read_weights(o.student)
    student, described = student_of(weights), dict(weights.metadata)
    training, held_out = split(find_pairs(data))
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")]
    pupil = fine_tune(student, str(o.student), examples, o.steps, o.seed, o.out.with_suffix(".state"))
    if process_here()[0] > 0:
        return
    described |= {
        "lesson": f"night, {o.steps} steps on crops of {len(training)} pairs, seed {o.seed}",
        "metrics": f"{json.dumps(held_out_metrics(pupil, held_out))} on {len(held_out)} held-out pairs",
    }
    save_student(pupil, o.out, described)


if __name__ == "__main__":
    main()
