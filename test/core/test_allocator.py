"""What is freed stays in the process until it is given back."""

import subprocess
import sys

import pytest

START = """
import numpy as np
from fusionproxy_ros.core.allocator import give_back_freed_memory, keep_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

keep_freed_memory()
"""
IMAGES = """
before = resident_mb()
images = [np.ones((480, 640, 3), np.uint8) for _ in range(200)]
last = np.ones(1000)  # holds the heap's end
full = resident_mb()
del images
freed = resident_mb()
give_back_freed_memory()
print(before, full, freed, resident_mb())
"""
REUSED = """
large = [np.ones(8 << 20, np.uint8) for _ in range(8)]
last = np.ones(1000)
del large
give_back_freed_memory()
images = [np.ones((480, 640, 3), np.uint8) for _ in range(40)]
print(open("/proc/self/smaps_rollup").read().split("AnonHugePages:")[1].split()[0])
"""
TWO_THREADS = """
from concurrent.futures import ThreadPoolExecutor

def make():
    images = [np.ones((480, 640, 3), np.uint8) for _ in range(200)]
    return resident_mb()

before = resident_mb()
with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:  # the first thread is there all the time
    print(before, one.submit(make).result(), other.submit(make).result())
"""

GARBAGE = """
import gc
gc.disable()  # it might look for such images by itself meanwhile

def held():
    image = [np.ones((480, 640, 3), np.uint8)]
    image.append(image)

before = resident_mb()
for _ in range(200):
    held()
full = resident_mb()
give_back_freed_memory()
print(before, full, resident_mb())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's")


def printed(code):
    """The numbers that a process prints that has freed memory kept and then runs `code`."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=True)
    return map(float, done.stdout.split())


@pytest.mark.slow
def test_freed_images_are_kept_for_the_next_and_given_back_when_asked_for():
    before, full, freed, tidied = printed(IMAGES)
    assert full - before > 150
    assert freed > full - 20
    assert tidied < before + 20


def test_images_in_the_place_of_freed_large_arrays_bring_their_own_pages_and_no_huge_ones():
    assert list(printed(REUSED)) == [0]


def test_images_that_only_hold_each_other_are_given_back_too():
    before, full, tidied = printed(GARBAGE)
    assert full - before > 150
    assert tidied < before + 20


def test_what_one_thread_has_freed_another_has_again():
    before, first, second = printed(TWO_THREADS)
    assert first - before > 150
    assert second < first + 20
