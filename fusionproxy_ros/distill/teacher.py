"""The diffusion teacher: fuses slowly, by sampling from a posterior.

    python -m fusionproxy_ros.distill.teacher --data pairs --out out/distill/teacher.safetensors

trains its denoiser without ground truth: on single pictures, luma or thermal, each restored from two
complementary spoilt views of it (augment.two_views). To fuse, RGB luma and thermal are the two views (after
"masked" and "degradation-aware" self-supervised fusion), and after each denoising step the picture moves down
the energy of a likelihood of both sources (after DDFM, Zhao et al., ICCV 2023, with likelihood.py in place of its
EM step). What the sources leave open, a sample decides for itself: by its noise and by its latent fields. Last, in
the dark, likelihood.at_night leaves of thermal what is warm.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.distill.augment import random_crop, two_views
from fusionproxy_ros.distill.data import (
    NO_DATA,
    Example,
    TensorFileError,
    default_pairs,
    find_pairs,
    load,
    read_tensors,
    split,
    to_tensor,
    write_tensors,
)
from fusionproxy_ros.distill.likelihood import Latent, Likelihood, at_night, draw_latent
from fusionproxy_ros.distill.training_loop import fit

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

DENOISER_ARCHITECTURE = "two-view-denoiser-1"
PATCH_PX = 4  # the network sees 4x4 pixels as channels: a sixteenth of the work
MULTIPLE_PX = 16  # sides of its pictures are multiples of this
LEVELS = 1000  # of noise, in training
DENOISER_CROP_PX = 128
LARGEST_DENOISER_CROP = 2.0  # times DENOISER_CROP_PX, shrunk
DENOISER_LEARNING_RATE = 6e-4
MIN_NOISE = 0.02  # variance below which the loss no longer grows as noise shrinks
LUMA_SHARE = 0.6  # of the training pictures; the others are thermal
BLIND_SHARE = 0.2  # of the training pictures have no views: an unconditional prior is learned beside


class Denoiser(nn.Module):
    """A clean picture from a noisy one and two views of it: a UNet that chooses, at each pixel, whom to believe."""

    def __init__(self, widths: Sequence[int] = (64, 96, 128)):
        # Takes seconds, and is not needed to train and judge students.
        from diffusers.models import UNet2DModel

        super().__init__()
        self.widths = tuple(widths)
        channels = PATCH_PX**2
        self.unet = UNet2DModel(
            in_channels=3 * channels,
            out_channels=4 * channels,
            block_out_channels=self.widths,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * len(self.widths),
            up_block_types=("UpBlock2D",) * len(self.widths),
            add_attention=False,
            norm_num_groups=16,
        ).to(memory_format=torch.channels_last)
        nn.init.zeros_(self.unet.conv_out.weight)  # at first, each of the three counts a third
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, noisy: Tensor, first: Tensor, second: Tensor, kept: Tensor) -> Tensor:
        """The clean picture, (N, 1, H, W) in [-1, 1], from images of that kind; H and W multiples of MULTIPLE_PX.

        noisy: sqrt(kept) * clean + sqrt(1 - kept) * noise, kept (N,) in [0, 1].
        The answer is a weighted mean of first, second and sqrt(kept) * noisy - sqrt(1 - kept) * v, the weights
        and v (the velocity of Salimans and Ho, ICLR 2022) being the network's.
        """
        planes = [F.pixel_unshuffle(image, PATCH_PX) for image in (noisy, first, second)]
        x = torch.cat(planes, 1).contiguous(memory_format=torch.channels_last)
        signal, noise = kept.sqrt(), (1 - kept).sqrt()
        maps = self.unet(x, noise.asin() * (LEVELS / (torch.pi / 2))).sample.chunk(4, 1)
        velocity, *beliefs = (F.pixel_shuffle(of_patches, PATCH_PX) for of_patches in maps)
        denoised = signal[:, None, None, None] * noisy - noise[:, None, None, None] * velocity
        choices = torch.cat([denoised, first, second], 1)
        return (torch.cat(beliefs, 1).softmax(1) * choices).sum(1, keepdim=True)


def noise_schedule() -> "DDIMScheduler":
    """The cosine noise schedule of Nichol and Dhariwal (ICML 2021); its sampling times end at pure noise."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(LEVELS, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")


@dataclass(frozen=True)
class Sampling:
    """How the teacher samples.

    steps: of denoising.
    refinements: Adam steps down the likelihood's energy after the last of them, proportionally fewer where less of
        the picture has been `kept` from the noise.
    pace: size of the first of these, in grey range 1, times the deviation of the noise left.
    prior: how firmly a refined picture is held to what the denoiser proposed; divided by the variance of the
        noise left.
    conditional: the denoiser sees both sources; else it is a prior that knows of neither.
    """

    steps: int = 8
    refinements: int = 30
    pace: float = 0.1
    prior: float = 1.0
    conditional: bool = True


# The teacher is "guided"; the two ideas it is made of are for comparison.
SAMPLING_METHODS = {
    "guided": Sampling(),
    "restoration": Sampling(refinements=0),
    "posterior": Sampling(conditional=False),
}


class Teacher:
    """Samples fused luma for two sources.

    denoiser: trained; moved to `device`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampling: Sampling = SAMPLING_METHODS["guided"],
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.sampling = sampling
        self._denoiser = denoiser.to(self.device).eval().requires_grad_(False)
        self._schedule = noise_schedule()
        self._schedule.set_timesteps(sampling.steps)

    def sample(
        self, luma: np.ndarray, thermal: np.ndarray, seeds: Sequence[int | Sequence[int]]
    ) -> np.ndarray:
        """One fused luma for each seed, (K, H, W) float32 in [0, 1], from (H, W) uint8 sources of at least 32x32.

        A sample depends on its seed and the sources alone, not on its companions.
        """
        height, width = luma.shape
        pad = (0, -width % MULTIPLE_PX, 0, -height % MULTIPLE_PX)
        y, t = (
            F.pad(to_tensor(np.ascontiguousarray(image)), pad, mode="replicate").to(self.device)
            for image in (luma, thermal)
        )
        generators = [np.random.default_rng(seed) for seed in seeds]
        padded = (y.shape[2], y.shape[3])
        latents = [draw_latent(padded, rng) for rng in generators]
        latent = Latent(*(torch.cat(fields).to(self.device) for fields in zip(*latents, strict=True)))
        likelihood = Likelihood(y.expand(len(seeds), -1, -1, -1), t.expand(len(seeds), -1, -1, -1), latent)
        views = (2 * y - 1, 2 * t - 1) if self.sampling.conditional else (torch.zeros_like(y),) * 2

        def noise() -> Tensor:
            planes = [rng.standard_normal((1, *padded), np.float32) for rng in generators]
            return torch.from_numpy(np.stack(planes)).to(self.device)

        levels = [self._schedule.alphas_cumprod[time].to(self.device) for time in self._schedule.timesteps]
        x = noise()
        for kept, following in zip(levels, [*levels[1:], None], strict=True):
            picture = self._refine(self._propose(x, *views, kept), likelihood, kept)
            if following is not None:
                # Half of the noise to come is what this picture makes of the noise that was, half is new.
                old = (x - kept.sqrt() * picture) / (1 - kept).sqrt()
                x = following.sqrt() * picture + (1 - following).sqrt() * (old + noise()) / 2**0.5
        pictures = ((picture + 1) / 2)[:, 0, :height, :width].cpu().numpy()
        shown, _ = at_night(luma.astype(np.float32) / 255, thermal.astype(np.float32) / 255, pictures)
        return shown

    def _propose(self, x: Tensor, first: Tensor, second: Tensor, kept: Tensor) -> Tensor:
        """The denoiser's clean pictures, one by one: large pictures fit in memory, companions change nothing."""
        with torch.inference_mode():
            pictures = [self._denoiser(one[None], first, second, kept[None]) for one in x]
        return torch.cat(pictures).clone().clamp_(-1, 1)

    def _refine(self, proposal: Tensor, likelihood: Likelihood, kept: Tensor) -> Tensor:
        """Pictures in [-1, 1] of lower energy, not far from the proposal."""
        anchor = (proposal + 1) / 2
        picture = anchor.clone().requires_grad_()
        # Variances of grey range 1 are a quarter of those of range 2.
        hold = self.sampling.prior * 2 * kept / (1 - kept)
        pace = self.sampling.pace * float((1 - kept).sqrt())
        # Few while there is little to refine.
        steps = math.ceil(self.sampling.refinements * float(kept.sqrt()))
        optimiser = torch.optim.Adam([picture])
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = pace * (1 - step / steps)
            energy = likelihood.energy(picture) + hold * (picture - anchor).square().mean((1, 2, 3))
            optimiser.zero_grad()
            energy.sum().backward()
            optimiser.step()
        return picture.detach().clamp_(0, 1) * 2 - 1


def training_batch(
    examples: Sequence[Example], batch: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures and their two views, each (batch, 1, DENOISER_CROP_PX, DENOISER_CROP_PX) in [-1, 1]."""
    triples = []
    for _ in range(batch):
        luma, thermal = random_crop(
            examples[int(rng.integers(len(examples)))], DENOISER_CROP_PX, LARGEST_DENOISER_CROP, rng
        )
        picture = (luma if rng.random() < LUMA_SHARE else thermal) ** rng.uniform(0.8, 1.25)
        blind = rng.random() < BLIND_SHARE
        views = (np.full_like(picture, 0.5),) * 2 if blind else two_views(picture, rng)
        triples.append(np.stack([picture, *views]))
    stacked = torch.from_numpy(np.stack(triples, 1)[:, :, None].astype(np.float32)).mul_(2).sub_(1)
    picture_and_views = stacked.unbind()
    return picture_and_views[0], picture_and_views[1], picture_and_views[2]


def train_denoiser(
    examples: Sequence[Example], steps: int, batch: int, widths: Sequence[int], seed: int, state: Path
) -> Denoiser:
    """A denoiser trained on single pictures; resumes from `state` where a run was killed."""
    levels = noise_schedule().alphas_cumprod

    def loss_of(denoiser: nn.Module, rng: np.random.Generator, device: torch.device) -> Tensor:
        picture, first, second = (image.to(device) for image in training_batch(examples, batch, rng))
        noise = torch.from_numpy(rng.standard_normal(picture.shape, np.float32)).to(device)
        kept = levels[torch.from_numpy(rng.integers(0, LEVELS, batch))].to(device)
        signal = kept[:, None, None, None]
        noisy = signal.sqrt() * picture + (1 - signal).sqrt() * noise
        error = (denoiser(noisy, first, second, kept) - picture).square().mean((1, 2, 3))
        return (error / (1 - kept).clamp(min=MIN_NOISE)).mean()

    torch.manual_seed(seed)
    settings = {
        "architecture": DENOISER_ARCHITECTURE,
        "widths": list(widths),
        "batch": batch,
        "pairs": len(examples),
    }
    return fit(Denoiser(widths), loss_of, steps, seed, DENOISER_LEARNING_RATE, state, settings)


def save_denoiser(denoiser: Denoiser, path: Path, metadata: dict[str, str]) -> None:
    """Write a checkpoint that load_denoiser reads."""
    described = {"architecture": DENOISER_ARCHITECTURE, "arguments": json.dumps({"widths": denoiser.widths})}
    write_tensors(path, denoiser.state_dict(), metadata | described)


def load_denoiser(path: Path) -> Denoiser:
    """The denoiser in a checkpoint. Raises TensorFileError where it is damaged or not of this architecture."""
    tensors, metadata = read_tensors(path)
    if metadata.get("architecture") != DENOISER_ARCHITECTURE:
        found = metadata.get("architecture", "none stated")
        raise TensorFileError(
            f"{path}: architecture is {found}, not {DENOISER_ARCHITECTURE}: train the teacher again"
        )
    try:
        denoiser = Denoiser(**json.loads(metadata["arguments"]))
        denoiser.load_state_dict(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise TensorFileError(f"{path}: weights and stated architecture disagree ({error})") from error
    return denoiser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Train the diffusion teacher. Killed, it goes on where it was."
    )
    parser.add_argument("--data", type=Path, default=default_pairs(), help="folder of SET/{rgb,thermal}/ID.*")
    parser.add_argument(
        "--out", type=Path, default=Path("out/distill/teacher.safetensors"), help="checkpoint"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16, help="crops in a step")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[64, 96, 128], help="channels, multiples of 16"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data = options.data or parser.error(NO_DATA)
    cv2.setNumThreads(1)
    training, _ = split(find_pairs(data))
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")]
    denoiser = train_denoiser(
        examples,
        options.steps,
        options.batch,
        options.widths,
        options.seed,
        options.out.with_suffix(".state"),
    )
    sets = ", ".join(sorted({pair.set for pair in training}))
    save_denoiser(
        denoiser, options.out, {"data": f"{len(training)} pairs of {sets}", "steps": str(options.steps)}
    )


if __name__ == "__main__":
    main()
