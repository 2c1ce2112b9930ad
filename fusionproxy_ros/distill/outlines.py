"""What teaches a student that thermal which lies wrong draws no second outline stronger than RGB's own edges.

Whole pictures, since only a whole picture says what RGB's own edges are, and of those the ones on which the student
doubles edges most. What is warm is left out: people, whom thermal shows best, are not to pay for it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.distill.darkness import SURROUNDINGS_PX
from fusionproxy_ros.distill.data import Example, to_tensor
from fusionproxy_ros.distill.robustness import edges_and_ghosts
from fusionproxy_ros.distill.views import MAX_SHIFT_PX, MAX_TURN_DEG, moved

DOUBLING = 0.7  # of RGB's own edges: where doubled ones are as strong there is something to learn
ALLOWED = 0.9  # of them; what goes beyond is a loss
FAR = 0.6  # of MAX_SHIFT_PX and MAX_TURN_DEG at least is thermal off
WARM = 10  # grey levels above its surroundings
NEAR_PX = 7  # around what is warm counts as warm
SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None]


def far_off(thermal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thermal moved far, in a random direction."""
    turn_deg = rng.choice((-1, 1)) * MAX_TURN_DEG * rng.uniform(FAR, 1)
    heading, shift_px = rng.uniform(0, 2 * np.pi), MAX_SHIFT_PX * rng.uniform(FAR, 1)
    return moved(thermal, float(turn_deg), shift_px * np.array((np.cos(heading), np.sin(heading))))


def doubling(student: nn.Module, luma: np.ndarray, thermal: np.ndarray, device: torch.device) -> Tensor:
    """robustness.ghost of the student's answer, with a gradient, but for what is warm; thermal is misaligned.

    luma, thermal: (H, W) uint8.
    """
    own, ghosts = edges_and_ghosts(luma, thermal)
    fused = student(*(to_tensor(image).to(device) for image in (luma, thermal)))
    if not own.any() or not ghosts.any():
        return fused.new_zeros(())
    warmth = thermal - cv2.GaussianBlur(thermal.astype(np.float32), (0, 0), SURROUNDINGS_PX)
    warm = cv2.dilate((warmth > WARM).astype(np.uint8), np.ones((NEAR_PX, NEAR_PX))).astype(bool)
    own, ghosts, fixed = (torch.from_numpy(mask).to(device) for mask in (own, ghosts, ghosts & warm))
    sobel = torch.cat([SOBEL, SOBEL.mT]).to(device)
    along = F.conv2d(F.pad(fused.float(), (1, 1, 1, 1), mode="reflect"), sobel)  # as OpenCV does
    gradient = (along.square().sum((0, 1)) + 1e-10).sqrt()
    gradient = torch.where(fixed, gradient.detach(), gradient)
    return gradient[ghosts].mean() / gradient[own].mean()


@torch.inference_mode()
def to_practise(student: nn.Module, examples: Sequence[Example]) -> list[Example]:
    """Those on which the student doubles edges most."""
    rng, cpu = np.random.default_rng(0), torch.device("cpu")
    found = []
    for example in tqdm(examples, "doubled edges", unit="pair"):
        if doubling(student, example.luma, far_off(example.thermal, rng), cpu) > DOUBLING:
            found.append(example)
    return found


def excess(
    student: nn.Module, examples: Sequence[Example], rng: np.random.Generator, device: torch.device
) -> Tensor:
    """By how much the student doubles edges more than ALLOWED on one of `examples`, its thermal far off."""
    if not examples:
        return torch.zeros((), device=device)
    example = examples[rng.integers(len(examples))]
    return F.relu(doubling(student, example.luma, far_off(example.thermal, rng), device) - ALLOWED)
