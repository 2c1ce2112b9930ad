"""The student: a small network that fuses luma and thermal at frame rate. On a CPU it runs by cpu.py.

It thinks at a quarter of the resolution and below, and answers with four coefficients per pixel (predicted at
half resolution) of a local affine model of the full-resolution sources, as in guided filtering (He et al., TPAMI
35, 2013) and deep bilateral learning (Gharbi et al., SIGGRAPH 2017):

    fused = a * Y + b * T + m * max(Y, T) + c,    T = weight * (thermal - mean of thermal)

so every detail in the result comes from a source pixel, and the full-resolution work is a few passes over
memory. min(Y, T) = Y + T - max(Y, T) is among what it can choose. Centring T makes the answer independent of
the level that gain control gave the thermal image; where thermal is flat or unknown, T is 0 and max(Y, T) is Y.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save
from torch import Tensor, nn

from fusionproxy_ros.core.files import save_bytes
from fusionproxy_ros.fusion.colour import add_luma
from fusionproxy_ros.fusion.weights import ARCHITECTURE, Weights, read_weights

CHANNELS_LAST = torch.channels_last
STRIDE = 16  # pixels of the image per pixel of the coarsest features


class Student(nn.Module):
    """Fused luma from luma and thermal.

    widths: channels at 1/4, 1/8 and 1/16 of the resolution.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64)):
        super().__init__()
        self.widths = tuple(widths)
        w4, w8, w16 = self.widths
        self.stem = nn.Conv2d(2, w4, 4, stride=4)
        self.down8 = nn.Conv2d(w4, w8, 3, stride=2, padding=1)
        self.enc8 = nn.Conv2d(w8, w8, 3, padding=1)
        self.down16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.enc16 = nn.Conv2d(w16, w16, 3, padding=1)
        # What no window can tell: is this thermal image alive at all, is it day or night?
        self.context = nn.Sequential(nn.Linear(w16, w16), nn.ReLU(), nn.Linear(w16, w16))
        self.dec16 = nn.Conv2d(w16, w16, 3, padding=1)
        self.up8 = nn.Conv2d(w16, w8, 1)
        self.dec8 = nn.Conv2d(w8, w8, 3, padding=1)
        self.up4 = nn.Conv2d(w8, w4, 1)
        self.dec4 = nn.Conv2d(w4, w4, 3, padding=1)
        self.head = nn.Conv2d(w4, 16, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        with torch.no_grad():  # start as fused = Y + T / 2, at each of the 2x2 pixels
            self.head.bias.copy_(torch.tensor([1, 0.5, 0, 0]).repeat_interleave(4))
        self.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]  # torch's stub lacks it

    def forward(self, luma: Tensor, thermal: Tensor, weight: Tensor | None = None) -> Tensor:
        """(N, 1, H, W) float32 in [0, 1] from inputs of the same kind; H and W at least 32.

        weight: (N, 1, H, W) in [0, 1], how far thermal is to be trusted (0 outside the thermal camera's
            view); None means 1. Where it is 0 the result is luma, exactly.
        """
        if weight is None:
            thermal = thermal - thermal.mean((2, 3), keepdim=True)
        else:
            seen = weight.sum((2, 3), keepdim=True).clamp_(min=1)
            mean = (weight * thermal).sum((2, 3), keepdim=True) / seen
            thermal = (thermal - mean).mul_(weight)
        height, width = luma.shape[-2:]
        pad = (0, -width % STRIDE, 0, -height % STRIDE)
        padded = [F.pad(source, pad, mode="replicate") if any(pad) else source for source in (luma, thermal)]
        half = F.pixel_shuffle(self.coefficients(*padded).float(), 2)
        coefficients = F.interpolate(half, scale_factor=2, mode="bilinear")
        a, b, m, c = coefficients[..., :height, :width].split(1, 1)
        fused = torch.addcmul(c, a, luma).addcmul_(b, thermal).addcmul_(m, torch.maximum(luma, thermal))
        fused = fused.clamp_(0, 1)
        return fused if weight is None else torch.lerp(luma, fused, weight)

    def coefficients(self, luma: Tensor, thermal: Tensor) -> Tensor:
        """Coefficients a, b, m, c, each at 2x2 points: (N, 16, H/4, W/4) for two (N, 1, H, W) sources.

        H and W: multiples of STRIDE. The order of channels is that of pixel_shuffle. Computed in the dtype of
        the weights, which may be half.
        """
        sources = torch.cat([luma, thermal], 1).to(self.stem.weight.dtype, memory_format=CHANNELS_LAST)
        x4 = self.stem(sources).relu_()
        x8 = self.enc8(self.down8(x4).relu_()).relu_()
        x16 = self.enc16(self.down16(x8).relu_()).relu_()
        x16 = x16 + self.context(x16.mean((2, 3)))[..., None, None]
        x16 = self.dec16(x16).relu_()
        x8 = self.dec8(F.interpolate(self.up8(x16), scale_factor=2).add_(x8)).relu_()
        x4 = self.dec4(F.interpolate(self.up4(x8), scale_factor=2).add_(x4)).relu_()
        return self.head(x4)


def save_student(student: Student, path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors checkpoint: weights, how to build the network, `metadata` (data, teacher...).

    The file holds what it held before or all of it, whenever the process dies.
    """
    described = {
        **metadata,
        "architecture": ARCHITECTURE,
        "arguments": json.dumps({"widths": student.widths}),
    }
    save_bytes(Path(path), save(weights_of(student).arrays, described))


def weights_of(student: Student) -> Weights:
    """A copy of the student's parameters, for what does without torch."""
    arrays = {name: tensor.cpu().contiguous().numpy().copy() for name, tensor in student.state_dict().items()}
    w4, w8, w16 = student.widths
    return Weights((w4, w8, w16), arrays)


def student_of(weights: Weights) -> Student:
    """The network, on the CPU, in eval mode, without gradients."""
    student = Student(weights.widths)
    student.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    return student.eval().requires_grad_(False)


def load_student(path: Path | str) -> Student:
    """The student in a checkpoint, as of `student_of`. Raises StudentError as `read_weights` does."""
    return student_of(read_weights(path))


class TorchStudent:
    """What cpu.NativeStudent does, by torch: for machines without the compiled code."""

    def __init__(self, weights: Weights):
        self._student = student_of(weights)

    @torch.inference_mode()
    def fuse(
        self,
        luma: np.ndarray,
        thermal: np.ndarray,
        weight: np.ndarray | None = None,
        threads: int = 1,
        rgb: np.ndarray | None = None,
    ) -> np.ndarray:
        """As of NativeStudent. threads: process-wide."""
        torch.set_num_threads(threads)
        planes = [torch.from_numpy(plane)[None, None].float().div_(255) for plane in (luma, thermal)]
        trust = None if weight is None else torch.from_numpy(weight.copy())[None, None]
        fused = self._student(*planes, trust)[0, 0].mul_(255)
        return fused.round_().byte().numpy() if rgb is None else add_luma(rgb, luma, fused.numpy())
