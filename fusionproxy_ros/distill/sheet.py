"""A contact sheet that a person can judge: a row per pair, a column per method."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fusionproxy_ros.colour import add_luma
from fusionproxy_ros.distill.baselines import Fuse
from fusionproxy_ros.distill.data import Example, spread

CELL_PX = 400


def evenly(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` pairs, at even distances in the order of their set and, within it, from dark to bright."""
    ordered = sorted(examples, key=lambda example: (example.file.set, example.luma.mean()))
    return spread(ordered, count)


def sheet(examples: Sequence[Example], methods: Mapping[str, Fuse]) -> np.ndarray:
    """Contact sheet, BGR: a row per pair with RGB, thermal, and what each method makes of them in colour."""
    titles = ("RGB", "thermal", *methods)
    heading = np.zeros((32, CELL_PX * len(titles), 3), np.uint8)
    for column, title in enumerate(titles):
        _write(heading, title, (column * CELL_PX + 8, 23), 0.7)
    rows = [heading]
    for example in examples:
        luma, thermal = example.luma, example.thermal
        cells = [example.bgr, cv2.cvtColor(thermal, cv2.COLOR_GRAY2BGR)]
        cells += [add_luma(example.bgr, luma, fuse(luma, thermal)) for fuse in methods.values()]
        size = CELL_PX, round(CELL_PX * luma.shape[0] / luma.shape[1])
        row = np.hstack([cv2.resize(cell, size, interpolation=cv2.INTER_AREA) for cell in cells])
        _write(row, f"{example.file.set} {example.file.id}", (6, 16), 0.45)
        rows.append(row)
    return np.vstack(rows)


def _write(image: np.ndarray, text: str, origin: tuple[int, int], scale: float) -> None:
    for colour, thickness in (((0, 0, 0), 3), ((0, 255, 255), 1)):  # outlined, to be read on any picture
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
