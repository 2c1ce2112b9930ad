"""The last lesson of a student: what is warm in the dark counts most.

    python -m fusionproxy_ros.distill.night --student out/elder/8-24-48.safetensors --out out/night.safetensors

The teacher shows it so (darkness.py), but what is warm in the dark is few pixels, and a student that learned to please
everywhere does not learn it well. So a trained one goes on, from its own answers to fresh crops, changed by `at_night`,
with those pixels weighing more. By day nothing is asked of it but what it does. Killed, it goes on where it was.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.distill.darkness import at_night
from fusionproxy_ros.distill.data import DATA, Example, find_pairs, load, split
from fusionproxy_ros.distill.ensemble import Ensemble
from fusionproxy_ros.distill.loop import fit, process_here
from fusionproxy_ros.distill.tensors import read_tensors
from fusionproxy_ros.distill.train import Method, answered_by, batch_of, held_out_metrics, loss_of_batch
from fusionproxy_ros.student import Student, load_student, save_student

LEARNING_RATE = 2e-3
LIKELIHOOD_WEIGHT = 0.03
URGENCY = 60.0  # of a warm pixel in the dark, over that of others: people are few pixels
NEAR_PX = 7  # around what is warm is as urgent
PIXELS = Method("weighted")


def answers(elder: Student, examples: Sequence[Example], rng: np.random.Generator) -> list[Ensemble]:
    """A batch of fresh crops, and the elder's answers to them, at night as they should be.

    `variance`: near what is warm 1, for `urgent`; the elder's answers have none.
    """

    def changed(e: Ensemble) -> Ensemble:
        planes = (plane.numpy().astype(np.float32) / 255 for plane in (e.luma, e.thermal))
        mean, warm = at_night(*planes, e.mean.numpy())
        near = cv2.dilate(warm, np.ones((NEAR_PX, NEAR_PX)))
        return replace(e, mean=torch.from_numpy(mean), variance=torch.from_numpy(near))

    return [changed(e) for e in answered_by(elder, examples, rng)]


def urgent(near_warm: Tensor) -> Tensor:
    """Pixel weights, (N, 1, H, W), of mean 1 in each picture."""
    weight = 1 + URGENCY * near_warm
    return weight / weight.mean((2, 3), keepdim=True)


def teach(
    student: Student, name: str, examples: Sequence[Example], steps: int, seed: int, state: Path
) -> Student:
    """A copy of the student `name` that has learned it; resumes from `state` where a run was killed."""

    def loss_of(pupil: nn.Module, rng: np.random.Generator, device: torch.device) -> Tensor:
        batch = batch_of(answers(student, examples, rng), rng).to(device)
        return loss_of_batch(pupil, batch, PIXELS, None, urgent, LIKELIHOOD_WEIGHT)

    pupil = copy.deepcopy(student).requires_grad_(True).train()
    return fit(pupil, loss_of, steps, seed, LEARNING_RATE, state, {"lesson": "night", "student": name})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Teach a trained student what to show at night.")
    parser.add_argument("--student", type=Path, required=True, help="checkpoint (.safetensors) to go on from")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write (.safetensors)")
    parser.add_argument("--data", type=Path, default=DATA / "pairs")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(arguments)
    student = load_student(o.student)
    training, held_out = split(find_pairs(o.data))
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")]
    pupil = teach(student, str(o.student), examples, o.steps, o.seed, o.out.with_suffix(".state"))
    if process_here()[0] > 0:
        return
    described = read_tensors(o.student)[1] | {
        "lesson": f"night, {o.steps} steps on crops of {len(training)} pairs, seed {o.seed}",
        "metrics": f"{json.dumps(held_out_metrics(pupil, held_out))} on {len(held_out)} held-out pairs",
    }
    save_student(pupil, o.out, described)


if __name__ == "__main__":
    main()
