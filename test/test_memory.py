"""What is freed stays in the process until it is given back."""

import subprocess
import sys

import pytest

CODE = """
import numpy as np
from fusionproxy_ros.memory import give_back_freed_memory, keep_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

keep_freed_memory()
before = resident_mb()
images = [np.ones((480, 640, 3), np.uint8) for _ in range(200)]
last = np.ones(1000)  # holds the heap's end
full = resident_mb()
del images
freed = resident_mb()
give_back_freed_memory()
print(before, full, freed, resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_images_are_kept_for_the_next_and_given_back_when_asked_for():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, full, freed, tidied = map(float, done.stdout.split())
    assert full - before > 150
    assert freed > full - 20
    assert tidied < before + 20
