"""Registered RGB-thermal pairs from disk: finding, splitting by scene, decoding; and files of tensors.

A data folder holds one folder per set, each with `rgb/ID.*` and `thermal/ID.*` of equal size. Files of tensors are
safetensors, replaced in one step so that a kill leaves them whole, and never pickle.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.files import save_bytes
from fusionproxy_ros.core.image_files import InputError, partners_in

NO_DATA = "FUSIONPROXY_DATA is not set: give --data, a folder of SET/rgb/ID.* and SET/thermal/ID.*"
SCENE_GAP = 100  # neighbouring frame numbers further apart than this are different scenes
HELD_OUT_SHARE = 0.2
SPLIT_SALT = "fusionproxy-23"


class DataError(FusionError):
    """The training data are missing, incomplete or unreadable."""


class TensorFileError(FusionError):
    """A file of tensors that is missing, damaged, or not what it should be."""


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


def default_pairs() -> Path | None:
    """$FUSIONPROXY_DATA/pairs, or None where that is not set: then --data is required, as NO_DATA says."""
    folder = os.environ.get("FUSIONPROXY_DATA")
    return Path(folder) / "pairs" if folder else None


def find_pairs(root: Path) -> list[PairFile]:
    """All pairs below `root`, by set and id. Raises DataError where there is none or a partner is missing."""
    pairs = []
    for folder in sorted(root.glob("*/rgb")):
        try:
            together, lonely = partners_in(folder, folder.parent / "thermal")
        except InputError as error:
            raise DataError(str(error)) from error
        if lonely:
            raise DataError(f"{lonely[0]}: add it, or remove this one")
        pairs += [PairFile(folder.parent.name, id, *paths) for id, paths in together.items()]
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
    parts = re.fullmatch(r"(.*?)(\d*)([DN]?)", pair.id, re.DOTALL)
    assert parts, "it fits whatever the name is"
    prefix, number, suffix = parts.groups()
    return ("video", 0) if "video" in prefix else (suffix, int(number or 0))


def group_by_scene(pairs: Iterable[PairFile]) -> dict[str, list[PairFile]]:
    """Pairs grouped into scenes: one sequence, cut wherever its numbers jump by more than SCENE_GAP."""
    sequences: dict[str, list[tuple[int, str, PairFile]]] = defaultdict(list)
    for pair in pairs:
        sequence, number = sequence_and_number(pair)
        sequences[f"{pair.set}/{sequence}"].append((number, pair.id, pair))
    found: dict[str, list[PairFile]] = {}
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
    quota: dict[str, float] = defaultdict(float)
    for pair in pairs:
        quota[pair.set] += HELD_OUT_SHARE
    held_out: list[PairFile] = []
    by_scene = group_by_scene(pairs)
    for name in sorted(by_scene, key=lambda name: hashlib.sha256((SPLIT_SALT + name).encode()).digest()):
        frames = by_scene[name]
        if len(frames) <= quota[frames[0].set] + 0.5:
            quota[frames[0].set] -= len(frames)
            held_out += frames
    held = set(held_out)
    return [pair for pair in pairs if pair not in held], sorted(held, key=lambda pair: (pair.set, pair.id))


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W) uint8 -> (1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image)[None, None].float().div_(255)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """As save_bytes does."""
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_bytes(path, save(here, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises TensorFileError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TensorFileError(f"{path}: not an intact safetensors file ({error}); make it again") from error
