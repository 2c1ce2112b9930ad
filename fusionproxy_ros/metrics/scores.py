"""Scores of several methods on the same pairs: their means, their ranks, and how they are printed."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fusionproxy_ros.metrics.classical import Fuse
from fusionproxy_ros.metrics.fusion_metrics import METRICS, RANKED

Means = dict[str, dict[str, float]]  # {method: {metric: mean}}


def scores_of_pair(
    luma: np.ndarray, thermal: np.ndarray, methods: Mapping[str, Fuse], metrics: Iterable[str] = METRICS
) -> Means:
    """{method: {metric: value}}."""
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


def print_scores(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """{row: {column: value}} as text; a value that a row lacks stays blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"\n{title}\n{'':22}" + "".join(f"{column:>{_width(column)}}" for column in columns))
    for name, row in rows.items():
        cells = [f"{row[c]:{_width(c)}.4f}" if c in row else " " * _width(c) for c in columns]
        print(f"{name:22}" + "".join(cells))


def _width(column: str) -> int:
    return max(10, len(column) + 2)
