"""How tests run, and pictures that several test modules share."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

# No deadline: beside other work the slowest example says nothing. A hang is what pytest's timeout is for.
settings.register_profile("fusionproxy", deadline=None, print_blob=True)
settings.load_profile("fusionproxy")


os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it; the cores are for other tests


def pytest_configure(config):
    """What a module's tests share is made once, and not once per process of `pytest -n`."""
    if getattr(config.option, "numprocesses", None):
        config.option.dist = "loadfile"
    if hasattr(config, "workerinput"):
        cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """Fusers and commands set their number for the whole process; the tests after them would spin on all cores."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


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
