"""Ask the teacher many times: K samples of each pair, kept as their mean and variance, in pixels and in features.

    python -m fusionproxy_ros.distill.ensemble --teacher out/distill/teacher.safetensors --out out/distill/train
    python -m fusionproxy_ros.distill.ensemble --teacher out/distill/teacher.safetensors --held-out 30 --scale 0.5 \
        --out out/distill/held_out
    python -m fusionproxy_ros.distill.ensemble --samples FOLDER --out out/distill/train

The first draws crops of training pairs under bad conditions, the second whole pairs kept out of training, as they
are. The third imports another teacher's samples: FOLDER/ID/sample_K.png, where ID is that of a pair in --data, so
that any fusion method can be the teacher. Killed, each goes on with what is missing. Under torchrun the pairs are
shared out; on a CPU, two processes of one thread are faster than one of two.
"""

import argparse
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusionproxy_ros.core.pictures import spread, to_grey_levels
from fusionproxy_ros.distill.augment import bad_conditions, random_crop
from fusionproxy_ros.distill.backbones import Backbone, load_backbone
from fusionproxy_ros.distill.data import (
    NO_DATA,
    DataError,
    Example,
    PairFile,
    TensorFileError,
    default_pairs,
    find_pairs,
    load,
    read_tensors,
    split,
    write_tensors,
)
from fusionproxy_ros.distill.teacher import DENOISER_ARCHITECTURE, SAMPLING_METHODS, Teacher, load_denoiser
from fusionproxy_ros.distill.training_loop import device_here, process_here

SAMPLES = 8
ENSEMBLE_CROP_PX = 192
LARGEST_ENSEMBLE_CROP = 2.4  # times ENSEMBLE_CROP_PX, shrunk


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What K samples of one pair say.

    luma, thermal: (H, W) uint8, the sources. mean, variance: (H, W) float16 over the samples, grey range 1.
    feature_mean: {layer: (C, h, w) float16}. feature_variance: {layer: (h, w) float16}, mean over channels of
    the samples' variance over the mean square of the layer's features.
    """

    id: str
    luma: Tensor
    thermal: Tensor
    mean: Tensor
    variance: Tensor
    seconds: float = 0.0  # that sampling took
    teacher: str = ""  # in words
    backbone: str = ""  # by name; "" without features
    feature_mean: dict[str, Tensor] = field(default_factory=dict)
    feature_variance: dict[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        tensors = {name: getattr(self, name) for name in ("luma", "thermal", "mean", "variance")}
        tensors |= {f"feature_mean.{layer}": tensor for layer, tensor in self.feature_mean.items()}
        tensors |= {f"feature_variance.{layer}": tensor for layer, tensor in self.feature_variance.items()}
        texts = {
            "id": self.id,
            "teacher": self.teacher,
            "seconds": f"{self.seconds:.3f}",
            "backbone": self.backbone,
        }
        write_tensors(path, tensors, texts)


def load_ensemble(path: Path) -> Ensemble:
    """Raises TensorFileError where the file is damaged or no ensemble."""
    tensors, metadata = read_tensors(path)
    layers = [name.removeprefix("feature_mean.") for name in tensors if name.startswith("feature_mean.")]
    try:
        return Ensemble(
            metadata["id"],
            tensors["luma"],
            tensors["thermal"],
            tensors["mean"],
            tensors["variance"],
            float(metadata["seconds"]),
            metadata["teacher"],
            metadata["backbone"],
            {layer: tensors[f"feature_mean.{layer}"] for layer in layers},
            {layer: tensors[f"feature_variance.{layer}"] for layer in layers},
        )
    except (KeyError, ValueError) as error:
        raise TensorFileError(
            f"{path}: not a teacher ensemble ({error} is missing); sample it again"
        ) from error


def load_ensembles(folder: Path) -> list[Ensemble]:
    """All in a folder, by name. Raises TensorFileError where there is none."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise TensorFileError(f"{folder}: no ensembles (*.safetensors) in it; sample the teacher first")
    return [load_ensemble(path) for path in paths]


@torch.inference_mode()
def summarise(
    id: str,
    luma: np.ndarray,
    thermal: np.ndarray,
    samples: np.ndarray,
    backbone: Backbone | None,
    seconds: float = 0.0,
    teacher: str = "",
) -> Ensemble:
    """The ensemble of `samples`, (K, H, W) float32 in [0, 1], of (H, W) uint8 sources; no features without backbone."""
    pictures = torch.from_numpy(samples)[:, None]
    means, variances = {}, {}
    if backbone is not None:
        device = next(backbone.parameters()).device
        for layer, features in backbone(pictures.to(device)).items():
            means[layer] = features.mean(0).half().cpu()
            power = features.square().mean().clamp(min=1e-12)
            variances[layer] = (features.var(0, correction=0).mean(0) / power).half().cpu()
    return Ensemble(
        id,
        torch.from_numpy(np.ascontiguousarray(luma)),
        torch.from_numpy(np.ascontiguousarray(thermal)),
        pictures.mean(0)[0].half(),
        pictures.var(0, correction=0)[0].half(),
        seconds,
        teacher,
        backbone.name if backbone else "",
        means,
        variances,
    )


def crop_under_conditions(
    examples: Sequence[Example], index: int, seed: int
) -> tuple[str, np.ndarray, np.ndarray]:
    """The index-th training crop: (id, luma, thermal), uint8, ENSEMBLE_CROP_PX wide and high.

    Each set is drawn equally often.
    """
    rng = np.random.default_rng((seed, index))
    sets = sorted({example.file.set for example in examples})
    members = [example for example in examples if example.file.set == sets[index % len(sets)]]
    example = members[rng.integers(len(members))]
    luma, thermal = random_crop(example, ENSEMBLE_CROP_PX, LARGEST_ENSEMBLE_CROP, rng)
    luma, thermal = bad_conditions(luma, thermal, rng)
    return f"{example.file.set}-{example.file.id}", to_grey_levels(luma), to_grey_levels(thermal)


def imported_samples(folder: Path, example: Example) -> np.ndarray:
    """(K, H, W) float32 luma of FOLDER/ID/sample_K.png. Raises DataError where they are unreadable or do not fit."""
    samples = []
    for path in sorted(folder.glob("sample_*.png")):
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None or bgr.shape != example.bgr.shape:
            raise DataError(f"{path}: not a readable picture of the size of pair {example.file.id}")
        samples.append(replace(example, bgr=bgr).luma.astype(np.float32) / 255)
    if len(samples) < 2:
        raise DataError(f"{folder}: {len(samples)} samples (sample_*.png); variance needs at least 2")
    return np.stack(samples)


class Asker:
    """Asks the teacher SAMPLES times about a pair, and reads the samples with the backbone."""

    def __init__(self, teacher: Teacher, method: str, backbone: Backbone, seed: int):
        self._teacher, self._backbone, self._seed = teacher, backbone, seed
        self._words = f"mean of {SAMPLES} samples of a diffusion teacher ({DENOISER_ARCHITECTURE}, {method})"

    def ask(self, name: str, id: str, luma: np.ndarray, thermal: np.ndarray) -> Ensemble:
        """name: of the file to be; the samples' seeds follow from it."""
        start = time.perf_counter()
        seeds = [(self._seed, zlib.crc32(name.encode()), k) for k in range(SAMPLES)]
        samples = self._teacher.sample(luma, thermal, seeds)
        seconds = time.perf_counter() - start
        return summarise(id, luma, thermal, samples, self._backbone, seconds, self._words)


# What is to be made: file name without suffix, and the function that makes it.
Jobs = Iterator[tuple[str, Callable[[], Ensemble]]]


def crops(asker: Asker, training: Sequence[PairFile], count: int, seed: int) -> Jobs:
    """`count` crops of the training pairs, under bad conditions."""
    examples = [load(pair) for pair in tqdm(training, "decode", unit="pair")]

    def make(index: int) -> Ensemble:
        return asker.ask(f"{index:05d}", *crop_under_conditions(examples, index, seed))

    for index in range(count):
        yield f"{index:05d}", partial(make, index)


def whole_pairs(asker: Asker, pairs: Sequence[PairFile], scale: float) -> Jobs:
    """Pairs as they are, at `scale` of their size."""

    def make(name: str, pair: PairFile) -> Ensemble:
        example = load(pair)
        images = [
            cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            for image in (example.luma, example.thermal)
        ]
        return asker.ask(name, pair.id, *images)

    for pair in pairs:
        name = f"{pair.set}-{pair.id}"
        yield name, partial(make, name, pair)


def imported(folder: Path, pairs: Sequence[PairFile], backbone: Backbone) -> Jobs:
    """Another teacher's samples, of the pairs that have a folder, in square tiles of ENSEMBLE_CROP_PX.

    Raises DataError where no pair has a folder.
    """

    def make(pair: PairFile, top: int, left: int) -> Ensemble:
        example, tile = load(pair), np.s_[..., top : top + ENSEMBLE_CROP_PX, left : left + ENSEMBLE_CROP_PX]
        samples = imported_samples(folder / pair.id, example)
        words = f"{len(samples)} imported samples"
        luma, thermal = example.luma[tile], example.thermal[tile]
        return summarise(pair.id, luma, thermal, samples[tile], backbone, teacher=words)

    sampled = [pair for pair in pairs if (folder / pair.id).is_dir()]
    if not sampled:
        raise DataError(f"{folder}: no folder in it is called like the ID of a training pair")
    for pair in sampled:
        height, width = load(pair).thermal.shape
        for top in range(0, height - ENSEMBLE_CROP_PX + 1, ENSEMBLE_CROP_PX):
            for left in range(0, width - ENSEMBLE_CROP_PX + 1, ENSEMBLE_CROP_PX):
                yield f"{pair.set}-{pair.id}-{top}-{left}", partial(make, pair, top, left)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Ask the teacher many times. Killed, it goes on where it was."
    )
    parser.add_argument("--data", type=Path, default=default_pairs(), help="folder of SET/{rgb,thermal}/ID.*")
    parser.add_argument("--out", type=Path, required=True, help="folder of the ensembles")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--teacher", type=Path, help="checkpoint of the diffusion teacher")
    origin.add_argument("--samples", type=Path, help="folder of another teacher's ID/sample_K.png")
    parser.add_argument(
        "--method", choices=SAMPLING_METHODS, default="guided", help="how the teacher samples"
    )
    parser.add_argument("--crops", type=int, default=288, help="how many training crops")
    parser.add_argument(
        "--held-out", type=int, default=0, help="instead, so many whole pairs kept out of training"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the size of whole pairs")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="see backbones.py for the others")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data = options.data or parser.error(NO_DATA)
    cv2.setNumThreads(1)
    device = device_here()
    backbone = load_backbone(options.backbone).to(device)
    training, held_out = split(find_pairs(data))
    if options.samples:
        jobs = imported(options.samples, training, backbone)
    else:
        teacher = Teacher(load_denoiser(options.teacher), SAMPLING_METHODS[options.method], device)
        asker = Asker(teacher, options.method, backbone, options.seed)
        if options.held_out:
            jobs = whole_pairs(asker, spread(held_out, options.held_out), options.scale)
        else:
            jobs = crops(asker, training, options.crops, options.seed)
    rank, world = process_here()
    for name, make in tqdm(list(jobs)[rank::world], "sample", unit="pair", position=rank):
        path = options.out / f"{name}.safetensors"
        if not path.exists():
            make().save(path)


if __name__ == "__main__":
    main()
