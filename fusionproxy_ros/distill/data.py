"""Registered RGB-thermal pairs from disk: finding, splitting by scene, decoding, augmenting.

A data folder holds one folder per set, each with `rgb/ID.*` and `thermal/ID.*` of equal size.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from fusionproxy_ros.frames import FusionError

DATA = Path(os.environ.get("FUSIONPROXY_DATA", "../shared/data"))  # from the repository root
SCENE_GAP = 100  # neighbouring frame numbers further apart than this are different scenes
HELD_OUT_SHARE = 0.2
SPLIT_SALT = "fusionproxy-23"


class DataError(FusionError):
    """The training data are missing, incomplete or unreadable."""


@dataclass(frozen=True)
class PairFile:
    """One pair on disk. id: file name without suffix."""

    set: str
    id: str
    rgb: Path
    thermal: Path


@dataclass(frozen=True, eq=False)
class Example:
    """One decoded pair. bgr: (H, W, 3) uint8. thermal: (H, W) uint8."""

    file: PairFile
    bgr: np.ndarray
    thermal: np.ndarray

    @property
    def luma(self) -> np.ndarray:
        """(H, W) uint8: Y of OpenCV's BGR -> YCrCb, i.e. ITU-R BT.601, full range."""
        return cv2.cvtColor(self.bgr, cv2.COLOR_BGR2YCrCb)[..., 0]


def find_pairs(root: Path) -> list[PairFile]:
    """All pairs below `root`, by set and id. Raises DataError where there is none or a partner is missing."""
    pairs = []
    for folder in sorted(root.glob("*/rgb")):
        thermal = {path.stem: path for path in (folder.parent / "thermal").glob("*")}
        for rgb in sorted(folder.iterdir()):
            if rgb.stem not in thermal:
                raise DataError(f"{rgb} has no thermal partner; add {folder.parent / 'thermal' / rgb.stem}.*")
            pairs.append(PairFile(folder.parent.name, rgb.stem, rgb, thermal[rgb.stem]))
    if not pairs:
        raise DataError(f"no pairs below {root}: it needs SET/rgb/ID.* and SET/thermal/ID.*; give --data")
    return pairs


def load(pair: PairFile) -> Example:
    """Decode one pair. Raises DataError where a file is unreadable or the sizes differ."""
    bgr = cv2.imread(str(pair.rgb), cv2.IMREAD_COLOR)
    thermal = cv2.imread(str(pair.thermal), cv2.IMREAD_GRAYSCALE)
    if bgr is None or thermal is None or bgr.shape[:2] != thermal.shape:
        raise DataError(f"{pair.rgb} and {pair.thermal} are not two readable images of one size")
    return Example(pair, bgr, thermal)


def sequence_and_number(pair: PairFile) -> tuple[str, int]:
    """The drive or clip a frame was cut from, and its number there (0 where the name has none).

    m3svd ids are clip_frame: the clip is one scene. msrs, roadscene and m3fd ids are numbers of the published
    set, some behind the name of the repository they came by; neighbouring numbers are neighbouring frames of
    a drive. D and N (day, night) are different drives, FLIR's "video" is one more.
    """
    if pair.set == "m3svd":
        return pair.id.rpartition("_")[0], 0
    prefix, number, suffix = re.fullmatch(r"(.*?)(\d*)([DN]?)", pair.id).groups()
    return ("video", 0) if "video" in prefix else (suffix, int(number or 0))


def scenes(pairs: Iterable[PairFile]) -> dict[str, list[PairFile]]:
    """Pairs grouped into scenes: one sequence, cut wherever its numbers jump by more than SCENE_GAP."""
    sequences = defaultdict(list)
    for pair in pairs:
        sequence, number = sequence_and_number(pair)
        sequences[f"{pair.set}/{sequence}"].append((number, pair.id, pair))
    found = {}
    for sequence, frames in sorted(sequences.items()):
        last = -SCENE_GAP - 1
        for number, _, pair in sorted(frames, key=lambda frame: frame[:2]):
            if number - last > SCENE_GAP:
                name = f"{sequence}{number or ''}"
                found[name] = []
            found[name].append(pair)
            last = number
    return found


def split(pairs: Sequence[PairFile]) -> tuple[list[PairFile], list[PairFile]]:
    """(training, held out), by scene: none has frames in both, and each set gives up to 20 % of its frames.

    Deterministic: each set's scenes are drawn in the order of a hash of their name, skipping those that
    would overfill the share.
    """
    quota = defaultdict(float)
    for pair in pairs:
        quota[pair.set] += HELD_OUT_SHARE
    held_out = []
    by_scene = scenes(pairs)
    for name in sorted(by_scene, key=lambda name: hashlib.sha256((SPLIT_SALT + name).encode()).digest()):
        frames = by_scene[name]
        if len(frames) <= quota[frames[0].set] + 0.5:
            quota[frames[0].set] -= len(frames)
            held_out += frames
    held = set(held_out)
    return [pair for pair in pairs if pair not in held], sorted(held, key=lambda pair: (pair.set, pair.id))


def spread(items: Sequence, count: int) -> list:
    """At most `count` of them, evenly over their order."""
    places = np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int)
    return [items[place] for place in places]


def to_grey_levels(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> 0..255 uint8, rounded and clipped."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W) uint8 -> (1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image)[None, None].float().div_(255)
