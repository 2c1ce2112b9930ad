"""The core of the node (register, normalise, student, pack) against the obvious way to write it, in turns.

    python test/benchmarks/bench_core.py [--frames 200] [--threads 2]

Prints medians, their ratio, and how far the two pictures are from each other.
"""

import argparse
import array
import copy
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.frames import Pair
from fusionproxy_ros.core.image_messages import fill_image
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.network import Student, load_student, weights_of
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.geometry.lens import Size
from fusionproxy_ros.trials.bench import WARM_UP, nth_pair, resized_road
from fusionproxy_ros.trials.night_road import default_calibration

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from obvious_fuser import ObviousFuser

SIZES_PX = ((640, 480), (1280, 720))
TURN = 50  # frames at a time: each way's idle threads spin for a while, on the other's cores


class Message:
    """The fields of a sensor_msgs/Image that are filled."""

    def __init__(self):
        self.data = array.array("B")


def measure(size_px: Size, student: Student, frames: int, threads: int) -> tuple[list, list]:
    """Times in ms of each way, ours first, and its last picture."""
    rgb, thermal, register = resized_road(size_px)
    calibration = default_calibration(size_px, (size_px[0] // 2, size_px[1] // 2))
    ours = Fuser(weights_of(student), GainSettings(), "cpu", threads)
    obvious = ObviousFuser(copy.deepcopy(student), calibration, 20.0, size_px, threads)

    def our_way(pair: Pair) -> np.ndarray:
        fused = ours.fuse(pair, register)
        fill_image(Message(), None, fused.pixels, "rgb8")
        return fused.pixels

    def obvious_way(pair: Pair) -> np.ndarray:
        thermal = pair.thermal.pixels
        return obvious.fuse(pair.rgb.pixels.data, thermal.data, thermal.shape)[0]

    times_ms, pictures = ([], []), [None, None]
    for turn in range(0, frames, TURN):
        for way, fuse in enumerate((our_way, obvious_way)):
            for n in range(WARM_UP + min(TURN, frames - turn)):
                pair = nth_pair(rgb, thermal, turn + n)
                start_s = time.perf_counter()
                pictures[way] = fuse(pair)
                if n >= WARM_UP:
                    times_ms[way].append(1e3 * (time.perf_counter() - start_s))
    return times_ms, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    keep_freed_memory()
    cv2.setNumThreads(args.threads)
    student = load_student(DEFAULT_STUDENT)
    for size_px in SIZES_PX:
        times_ms, pictures = measure(size_px, student, args.frames, args.threads)
        mine_ms, obvious_ms = np.median(times_ms, axis=1)
        p99_ms = np.percentile(times_ms, 99, axis=1)
        psnr_db = 10 * np.log10(255**2 / ((pictures[0].astype(float) - pictures[1]) ** 2).mean())
        print(
            f"{size_px[0]}x{size_px[1]}: ours {mine_ms:.2f} ms (p99 {p99_ms[0]:.2f}), obvious {obvious_ms:.2f} ms "
            f"(p99 {p99_ms[1]:.2f}), ratio {obvious_ms / mine_ms:.2f}; the pictures agree to {psnr_db:.1f} dB"
        )


if __name__ == "__main__":
    main()
