"""Pictures that several test modules share."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest


def pytest_configure(config):
    """Threads of one process of `pytest -n` hold the cores that the other processes need."""
    if getattr(config.option, "numprocesses", None):
        config.option.dist = "loadfile"  # what a module's tests share is made once, not once per worker
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torch and numpy read when a worker imports them
    if hasattr(config, "workerinput"):
        cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real pairs and clips; the test is skipped where it is absent."""
    folder = Path(os.environ.get("FUSIONPROXY_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "pairs").is_dir():
        pytest.skip(f"no pairs at {folder / 'pairs'}")
    return folder


@pytest.fixture
def textures():
    """Two smooth random images, (120, 160) uint8."""
    rng = np.random.default_rng(3)
    return [
        cv2.GaussianBlur(rng.integers(0, 256, (120, 160)).astype(np.uint8), (0, 0), 2) * 2 for _ in range(2)
    ]


@pytest.fixture
def pair_folder(tmp_path):
    """Two sets of tiny pairs on disk, several scenes each."""
    folder, rng = tmp_path / "data" / "pairs", np.random.default_rng(4)
    ids = {
        "msrs": [f"{n:05d}N" for n in (1, 5, 300, 305, 900, 1500)],
        "m3svd": [f"{c}_0000" for c in "abcdef"],
    }
    for name, members in ids.items():
        for kind, shape in (("rgb", (288, 352, 3)), ("thermal", (288, 352))):
            (folder / name / kind).mkdir(parents=True)
            for member in members:
                image = cv2.blur(rng.integers(0, 256, shape).astype(np.uint8), (9, 9))
                cv2.imwrite(str(folder / name / kind / f"{member}.png"), image)
    return folder
