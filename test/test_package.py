"""What package.xml says, to those who build from source."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_rosdep_knows_every_dependency():
    if not shutil.which("rosdep"):
        pytest.skip("rosdep is not installed: apt install python3-rosdep")
    # As the README has it; one unknown key, and nothing is installed.
    command = ["rosdep", "install", "--simulate", "--ignore-src", "-y", "--from-paths"]
    done = subprocess.run([*command, ROOT], capture_output=True, text=True)
    if "rosdep update" in done.stderr:
        pytest.skip("rosdep has no data: sudo rosdep init; rosdep update")
    assert done.returncode == 0, done.stdout + done.stderr
