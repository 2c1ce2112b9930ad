"""Scores of several methods on the same pairs: their means, their ranks, and how they are printed."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from fusionproxy_ros.distill.baselines import Fuse
from fusionproxy_ros.distill.data import to_grey_levels, to_tensor
from fusionproxy_ros.distill.metrics import METRICS, RANKED
from fusionproxy_ros.normalisation import sample_step, to_uint8
from fusionproxy_ros.restraint import tolerated_contrast, with_contrast
from fusionproxy_ros.student import Student

Means = dict[str, dict[str, float]]  # {method: {metric: mean}}


def student_fuse(student: Student) -> Fuse:
    """The student as a function on 8-bit images; as Fuser does it with a still, restraint included."""

    @torch.inference_mode()
    def fuse(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
        step = sample_step(luma.size)
        contrast = tolerated_contrast(luma[::step, ::step], thermal[::step, ::step])
        thermal = to_uint8(thermal, *with_contrast(0, 255, contrast))
        return to_grey_levels(student(to_tensor(luma), to_tensor(thermal))[0, 0].numpy())

    return fuse


def scores(
    luma: np.ndarray, thermal: np.ndarray, methods: Mapping[str, Fuse], metrics: Iterable[str] = METRICS
) -> Means:
    """{method: {metric: value}} on one pair."""
    fused = {method: fuse(luma, thermal) for method, fuse in methods.items()}
    return {
        method: {metric: METRICS[metric](image, luma, thermal) for metric in metrics}
        for method, image in fused.items()
    }


def mean_scores(of_pairs: Sequence[Means]) -> Means:
    """{method: {metric: mean over the pairs}}."""
    return {
        method: {metric: statistics.mean(one[method][metric] for one in of_pairs) for metric in metrics}
        for method, metrics in of_pairs[0].items()
    }


def mean_ranks(means: Means) -> dict[str, float]:
    """{method: mean of its ranks by the RANKED metrics}; 1 is best, equals share the better rank."""
    return {
        method: statistics.mean(
            1 + sum(other[metric] > own[metric] for other in means.values()) for metric in RANKED
        )
        for method, own in means.items()
    }


def print_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """{row: {column: value}} as text; a value that a row lacks stays blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"\n{title}\n{'':22}" + "".join(f"{column:>{_width(column)}}" for column in columns))
    for name, row in rows.items():
        cells = [f"{row[c]:{_width(c)}.4f}" if c in row else " " * _width(c) for c in columns]
        print(f"{name:22}" + "".join(cells))


def _width(column: str) -> int:
    return max(10, len(column) + 2)
