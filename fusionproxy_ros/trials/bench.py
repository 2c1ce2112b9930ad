"""`fusionproxy bench`: what one frame costs, stage by stage and whole, against the floor that this machine sets.

The floor is the larger of two times: to move the bytes that must move, at the speed of a large copy, and to run the
network's arithmetic, at the speed of a large matrix product; both are measured in the same run, on the same threads.
"""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, Weights, read_weights, shapes
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.pipeline.worker import workers_for
from fusionproxy_ros.trials.night_road import NightRoad, default_calibration

SIZES_PX = ((320, 240), (640, 480), (1280, 720), (1920, 1080))
WARM_UP = 10  # frames that do not count
MOMENTS_S = (2.0, 5.0, 8.0, 12.0)  # of the night road; frames take turns
FUSER_STAGES = ("register", "normalise", "student")
COPY_BYTES, PRODUCT = 1 << 28, 1024  # of the two measures of the machine
ROUNDS = 15  # of which the median counts
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Pixels of the image for each pixel of a layer's result, in width as in height.
LAYER_STRIDES = {
    **dict.fromkeys(("stem", "dec4", "head"), 4),
    **dict.fromkeys(("down8", "enc8", "dec8", "up4"), 8),
    **dict.fromkeys(("down16", "enc16", "dec16", "up8"), 16),
}
COARSEST_STRIDE = max(LAYER_STRIDES.values())


@dataclass(frozen=True, eq=False)
class Machine:
    """bytes_per_s: read and written by a large copy. flops_per_s: of a large float32 matrix product."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, eq=False)
class Cost:
    """Of one camera pair's frames. times_ms: of each frame. stages_ms: medians. floor_ms: see the module."""

    size_px: tuple[int, int]
    times_ms: np.ndarray
    stages_ms: dict[str, float]
    floor_ms: float

    def row(self) -> dict[str, Any]:
        p50_ms, p99_ms = np.percentile(self.times_ms, (50, 99))
        return {
            "size_px": list(self.size_px),
            "median_ms": round(float(p50_ms), 3),
            "p99_ms": round(float(p99_ms), 3),
            **{f"{name}_ms": round(value, 3) for name, value in self.stages_ms.items()},
            "floor_ms": round(self.floor_ms, 3),
            "times_floor": round(float(p50_ms) / self.floor_ms, 2),
        }


def run_bench(
    out: Path, student: Path | None, device: str, threads: int, frames: int, pairs: Sequence[int]
) -> list[Path]:
    """Measure, print a table, write bench.json and, where matplotlib is installed, bench.png to `out`; their paths.

    student: its checkpoint, the shipped one if not given.
    pairs: numbers of camera pairs that one process fuses at 640x480.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    cv2.setNumThreads(threads)
    machine = measure_machine(threads)
    print(
        f"{machine.bytes_per_s / 1e9:.1f} GB/s of copying, {machine.flops_per_s / 1e9:.0f} GFLOP/s of multiplying, "
        f"{threads} threads of {os.cpu_count()}, {device}\n"
    )
    weights = read_weights(student or DEFAULT_STUDENT)
    costs = _costs(weights, device, threads, frames, machine)
    slope, intercept, worst = linear_fit(costs)
    print(
        f"\ncost = {slope:.2f} ms per megapixel + {intercept:.2f} ms; no size is off it by more than {worst:.0%}"
    )
    several = {count: measure_pairs(weights, count, device, threads, frames) for count in pairs}
    for count, (median_ms, p99_ms) in several.items():
        print(
            f"{count} pairs: {median_ms:.2f} ms for one frame of each (p99 {p99_ms:.2f}), "
            f"{count * 1e3 / median_ms:.0f} frames/s"
        )
    report = {
        "machine": {
            "bytes_per_s": machine.bytes_per_s,
            "flops_per_s": machine.flops_per_s,
            "threads": threads,
        },
        "device": device,
        "sizes": [cost.row() for cost in costs],
        "fit": {"ms_per_megapixel": slope, "intercept_ms": intercept, "worst_residual": worst},
        "pairs": {count: {"median_ms": m, "p99_ms": p} for count, (m, p) in several.items()},
    }
    (out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    try:
        plot(costs, slope, intercept, out / "bench.png")
    except ImportError as error:
        print(f"no {out / 'bench.png'}: the plots need matplotlib ({error}): pip install matplotlib")
        return [out / "bench.json"]
    return [out / "bench.json", out / "bench.png"]


def _costs(weights: Weights, device: str, threads: int, frames: int, machine: Machine) -> list[Cost]:
    """Of every size; each is a line of the table that this prints."""
    heads = " ".join(f"{stage:>10}" for stage in FUSER_STAGES)
    print(f"{'size':>10} {'median':>9} {'p99':>9} {heads}     floor  times floor")
    costs = []
    for size_px in SIZES_PX:
        cost = measure_size(weights, size_px, device, threads, frames, machine)
        costs.append(cost)
        row = cost.row()
        stages = " ".join(f"{row[f'{stage}_ms']:7.2f} ms" for stage in FUSER_STAGES)
        print(
            f"{size_px[0]:>5}x{size_px[1]:<4} {row['median_ms']:6.2f} ms {row['p99_ms']:6.2f} ms {stages} "
            f"{row['floor_ms']:6.2f} ms {row['times_floor']:9.1f}"
        )
    return costs


def resized_road(
    size_px: tuple[int, int],
) -> tuple[list[np.ndarray], list[np.ndarray], registration.Registration]:
    """RGB of a size, 16-bit thermal of half of it, and how they lie: the night road, resized."""
    road = NightRoad(default_calibration())
    half_px = size_px[0] // 2, size_px[1] // 2
    rgb = [cv2.resize(road.rgb(t_s), size_px) for t_s in MOMENTS_S]
    thermal = [cv2.resize(road.thermal(t_s), half_px) for t_s in MOMENTS_S]
    return rgb, thermal, registration.extrinsic(default_calibration(size_px, half_px), 20.0)


def nth_pair(rgb: list[np.ndarray], thermal: list[np.ndarray], n: int) -> Pair:
    """The n-th pair of pictures that take turns."""
    stamp_ns = 1 + n * 33_333_333
    frames = (
        Frame(stamp_ns, "", rgb[n % len(rgb)], "rgb8"),
        Frame(stamp_ns, "", thermal[n % len(thermal)], "mono16"),
    )
    return Pair(*frames, Mode.FUSED)


def measure_size(
    weights: Weights, size_px: tuple[int, int], device: str, threads: int, frames: int, machine: Machine
) -> Cost:
    """Fuse frames of one size, one after the other."""
    rgb, thermal, register = resized_road(size_px)
    fuser = Fuser(weights, GainSettings(), device, threads)
    times_ms, stages_ms = [], []
    for n in range(WARM_UP + frames):
        pair = nth_pair(rgb, thermal, n)
        start_s = time.perf_counter()
        fused = fuser.fuse(pair, register)
        times_ms.append(1e3 * (time.perf_counter() - start_s))
        stages_ms.append([getattr(fused, f"{stage}_ns") / 1e6 for stage in FUSER_STAGES])
    medians = np.median(stages_ms[WARM_UP:], axis=0)
    return Cost(
        size_px,
        np.array(times_ms[WARM_UP:]),
        dict(zip(FUSER_STAGES, map(float, medians), strict=True)),
        floor_ms(weights, size_px, machine),
    )


def measure_pairs(
    weights: Weights, count: int, device: str, threads: int, frames: int
) -> tuple[float, float]:
    """Median and p99 in ms of fusing one frame of each of `count` camera pairs, by as many workers as the node has."""
    rgb, thermal, register = resized_road((640, 480))
    fusers = [Fuser(weights, GainSettings(), device, threads) for _ in range(count)]
    with ThreadPoolExecutor(workers_for(count, threads)) as workers:

        def one_of_each(n: int) -> None:
            for _ in workers.map(lambda fuser: fuser.fuse(nth_pair(rgb, thermal, n), register), fusers):
                pass

        times_ms = times(one_of_each, max(20, frames // count))
    return float(np.median(times_ms)), float(np.percentile(times_ms, 99))


def times(work: Callable[[int], object], rounds: int) -> np.ndarray:
    """Milliseconds of each round after the warm-up."""
    result = []
    for n in range(WARM_UP + rounds):
        start_s = time.perf_counter()
        work(n)
        result.append(1e3 * (time.perf_counter() - start_s))
    return np.array(result[WARM_UP:])


# --- the floor --------------------------------------------------------------------------------------------------


def measure_machine(threads: int) -> Machine:
    """With so many threads."""
    with _blas_threads(threads), multiprocessing.get_context("spawn").Pool(1) as one_process:
        return one_process.apply(_measured, (threads, COPY_BYTES, PRODUCT))


@contextmanager
def _blas_threads(threads: int) -> Iterator[None]:
    """For processes that are started meanwhile: numpy's BLAS reads its number of threads once, when it is loaded."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(BLAS_THREADS, str(threads)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measured(threads: int, copy_bytes: int, product: int) -> Machine:
    """Of this process."""
    source, target = np.ones(copy_bytes, np.uint8), np.ones(copy_bytes, np.uint8)  # zeros have no pages yet
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as workers:

        def copy(n: int) -> None:
            for _ in workers.map(lambda part: np.copyto(*part), parts):
                pass

        copy_ms = np.median(times(copy, ROUNDS))
    a = np.random.default_rng(0).random((product, product), np.float32)
    product_ms = np.median(times(lambda n: a @ a, ROUNDS))
    return Machine(float(2 * copy_bytes / copy_ms * 1e3), float(2 * product**3 / product_ms * 1e3))


def floor_ms(weights: Weights, size_px: tuple[int, int], machine: Machine) -> float:
    """What no program that fuses images of this size with this network goes below."""
    return 1e3 * max(
        bytes_moved(size_px) / machine.bytes_per_s, flops(weights, size_px) / machine.flops_per_s
    )


def bytes_moved(size_px: tuple[int, int]) -> int:
    """RGB read and written; 16-bit thermal of half the size read; a lookup of 6 bytes per pixel read."""
    pixels = size_px[0] * size_px[1]
    return pixels * 3 * 2 + pixels // 4 * 2 + pixels * 6


def flops(weights: Weights, size_px: tuple[int, int]) -> int:
    """Multiplications and additions of the convolutions."""
    width_px, height_px = (-(-side // COARSEST_STRIDE) * COARSEST_STRIDE for side in size_px)
    kernels = shapes(weights.widths)
    return sum(
        2 * math.prod(kernels[f"{layer}.weight"]) * (width_px // stride) * (height_px // stride)
        for layer, stride in LAYER_STRIDES.items()
    )


def linear_fit(costs: Sequence[Cost]) -> tuple[float, float, float]:
    """ms per megapixel, ms at no pixel, and the largest share by which a size is off that line."""
    megapixels = np.array([cost.size_px[0] * cost.size_px[1] / 1e6 for cost in costs])
    medians_ms = np.array([np.median(cost.times_ms) for cost in costs])
    slope, intercept = np.polyfit(megapixels, medians_ms, 1, w=1 / medians_ms)
    residuals = np.abs(slope * megapixels + intercept - medians_ms) / medians_ms
    return float(slope), float(intercept), float(residuals.max())


# --- plots ------------------------------------------------------------------------------------------------------


def plot(costs: Sequence[Cost], slope: float, intercept: float, path: Path) -> None:
    """How long the frames of 640x480 took, and what a frame costs against its pixels. Raises ImportError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # an extra, and slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    distribution, growth = figure.subplots(1, 2)
    times_ms = next(cost.times_ms for cost in costs if cost.size_px == (640, 480))
    distribution.hist(times_ms, bins=40, range=(0, float(np.percentile(times_ms, 99.5))))
    distribution.set(title=f"640x480: {len(times_ms)} frames", xlabel="ms", ylabel="frames")
    megapixels = [cost.size_px[0] * cost.size_px[1] / 1e6 for cost in costs]
    growth.plot(megapixels, [np.median(cost.times_ms) for cost in costs], "o", label="median")
    growth.plot(megapixels, [cost.floor_ms for cost in costs], "o", label="floor")
    growth.axline((0, intercept), slope=slope, color="grey", label="fit of the medians")
    growth.set(xlim=(0, None), ylim=(0, None), title="cost of a frame", xlabel="megapixels", ylabel="ms")
    growth.legend()
    figure.savefig(path)
