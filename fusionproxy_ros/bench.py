"""`fusionproxy bench`: what one frame costs, stage by stage and whole, against the floor that this machine sets.

The floor is the larger of two times: to move the bytes that must move, at the speed of a large copy, and to run the
network's arithmetic, at the speed of a large matrix product; both are measured in the same run, on the same threads.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from fusionproxy_ros import registration
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT
from fusionproxy_ros.frames import Frame, Mode, Pair
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.memory import keep_freed_memory
from fusionproxy_ros.normalisation import NormalisationConfig
from fusionproxy_ros.scene import NightRoad, default_calibration
from fusionproxy_ros.student import STRIDE, Student, load_student, weights_of
from fusionproxy_ros.worker import workers_for

SIZES_PX = ((320, 240), (640, 480), (1280, 720), (1920, 1080))
WARM_UP = 10  # frames that do not count
MOMENTS_S = (2.0, 5.0, 8.0, 12.0)  # of the night road; frames take turns
STAGES = ("register", "normalise", "student")
COPY_BYTES, PRODUCT = 1 << 28, 1024  # of the two measures of the machine
ROUNDS = 15  # of which the median counts
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Machine:
    """bytes_per_s: read and written by a large copy. flops_per_s: of a large float32 matrix product."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, eq=False)
class Cost:
    """Of one camera pair's frames. times_ms: of each frame. stages_ms: medians. floor_ms: see the module."""

    size_px: Size
    times_ms: np.ndarray
    stages_ms: dict[str, float]
    floor_ms: float

    def row(self) -> dict:
        p50_ms, p99_ms = np.percentile(self.times_ms, (50, 99))
        return {
            "size_px": list(self.size_px),
            "median_ms": round(float(p50_ms), 3),
            "p99_ms": round(float(p99_ms), 3),
            **{f"{name}_ms": round(value, 3) for name, value in self.stages_ms.items()},
            "floor_ms": round(self.floor_ms, 3),
            "times_floor": round(float(p50_ms) / self.floor_ms, 2),
        }


def run(
    out: Path, student: Path | None, device: str, threads: int, frames: int, pairs: Sequence[int]
) -> dict:
    """Measure, print a table, write bench.json and bench.png to `out`; the report.

    student: its checkpoint, the shipped one if not given.
    pairs: numbers of camera pairs that one process fuses at 640x480.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
    machine = measure_machine()
    network = load_student(student or DEFAULT_STUDENT)
    costs = []
    print(
        f"{machine.bytes_per_s / 1e9:.1f} GB/s of copying, {machine.flops_per_s / 1e9:.0f} GFLOP/s of multiplying, "
        f"{threads} threads of {os.cpu_count()}, {device}\n"
    )
    print(
        f"{'size':>10} {'median':>9} {'p99':>9} "
        + " ".join(f"{s:>10}" for s in STAGES)
        + "     floor  times floor"
    )
    for size_px in SIZES_PX:
        cost = measure(network, size_px, device, threads, frames, machine)
        costs.append(cost)
        row = cost.row()
        stages = " ".join(f"{row[f'{s}_ms']:7.2f} ms" for s in STAGES)
        print(
            f"{size_px[0]:>5}x{size_px[1]:<4} {row['median_ms']:6.2f} ms {row['p99_ms']:6.2f} ms {stages} "
            f"{row['floor_ms']:6.2f} ms {row['times_floor']:9.1f}"
        )
    slope, intercept, worst = linear_fit(costs)
    print(
        f"\ncost = {slope:.2f} ms per megapixel + {intercept:.2f} ms; no size is off it by more than {worst:.0%}"
    )
    several = {count: measure_pairs(network, count, device, threads, frames) for count in pairs}
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
    cv2.imwrite(
        str(out / "bench.png"), np.hstack([_histogram(costs), _against_pixels(costs, slope, intercept)])
    )
    return report


def footage(size_px: Size) -> tuple[list[np.ndarray], list[np.ndarray], registration.Registration]:
    """RGB of a size, 16-bit thermal of half of it, and how they lie: the night road, resized."""
    scene = NightRoad(default_calibration())
    half_px = size_px[0] // 2, size_px[1] // 2
    rgb = [cv2.resize(scene.rgb(t_s), size_px) for t_s in MOMENTS_S]
    thermal = [cv2.resize(scene.thermal(t_s), half_px) for t_s in MOMENTS_S]
    return rgb, thermal, registration.extrinsic(default_calibration(size_px, half_px), 20.0)


def stream(rgb: list[np.ndarray], thermal: list[np.ndarray], n: int) -> Pair:
    """The n-th pair of footage that goes round."""
    stamp_ns = 1 + n * 33_333_333
    frames = (
        Frame(stamp_ns, "", rgb[n % len(rgb)], "rgb8"),
        Frame(stamp_ns, "", thermal[n % len(thermal)], "mono16"),
    )
    return Pair(*frames, Mode.FUSED)


def measure(
    network: Student, size_px: Size, device: str, threads: int, frames: int, machine: Machine
) -> Cost:
    """Fuse frames of one size, one after the other."""
    rgb, thermal, register = footage(size_px)
    fuser = Fuser(weights_of(network), NormalisationConfig(), device, threads)
    times_ms, stages_ms = [], []
    for n in range(WARM_UP + frames):
        pair = stream(rgb, thermal, n)
        start_s = time.perf_counter()
        fused = fuser.fuse(pair, register)
        times_ms.append(1e3 * (time.perf_counter() - start_s))
        stages_ms.append([getattr(fused, f"{stage}_ns") / 1e6 for stage in STAGES])
    medians = np.median(stages_ms[WARM_UP:], axis=0)
    return Cost(
        size_px,
        np.array(times_ms[WARM_UP:]),
        dict(zip(STAGES, map(float, medians), strict=True)),
        floor_ms(network, size_px, machine),
    )


def measure_pairs(
    network: Student, count: int, device: str, threads: int, frames: int
) -> tuple[float, float]:
    """Median and p99 in ms of fusing one frame of each of `count` camera pairs, by as many workers as the node has."""
    rgb, thermal, register = footage((640, 480))
    student = weights_of(network)
    fusers = [Fuser(student, NormalisationConfig(), device, threads) for _ in range(count)]
    with ThreadPoolExecutor(workers_for(count, threads)) as workers:

        def one_of_each(n: int) -> None:
            for _ in workers.map(lambda fuser: fuser.fuse(stream(rgb, thermal, n), register), fusers):
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


def measure_machine() -> Machine:
    """On the present number of torch's threads."""
    source, target = torch.zeros(COPY_BYTES, dtype=torch.uint8), torch.zeros(COPY_BYTES, dtype=torch.uint8)
    copy_ms = np.median(times(lambda n: target.copy_(source), ROUNDS))
    a = torch.rand(PRODUCT, PRODUCT)
    product_ms = np.median(times(lambda n: a @ a, ROUNDS))
    return Machine(2 * COPY_BYTES / copy_ms * 1e3, 2 * PRODUCT**3 / product_ms * 1e3)


def floor_ms(network: Student, size_px: Size, machine: Machine) -> float:
    """What no program that fuses images of this size with this network goes below."""
    return 1e3 * max(
        bytes_moved(size_px) / machine.bytes_per_s, flops(network, size_px) / machine.flops_per_s
    )


def bytes_moved(size_px: Size) -> int:
    """RGB read and written; 16-bit thermal of half the size read; a lookup of 6 bytes per pixel read."""
    pixels = size_px[0] * size_px[1]
    return pixels * 3 * 2 + pixels // 4 * 2 + pixels * 6


def flops(network: Student, size_px: Size) -> int:
    """Multiplications and additions of the convolutions."""
    strides = {"stem": 4, "down8": 8, "enc8": 8, "down16": 16, "enc16": 16, "dec16": 16, "up8": 16, "dec8": 8}
    strides |= {"up4": 8, "dec4": 4, "head": 4}
    width_px, height_px = (-(-side // STRIDE) * STRIDE for side in size_px)
    return sum(
        2 * layer.weight.numel() * (width_px // strides[name]) * (height_px // strides[name])
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
    )


def linear_fit(costs: Sequence[Cost]) -> tuple[float, float, float]:
    """ms per megapixel, ms at no pixel, and the largest share by which a size is off that line."""
    megapixels = np.array([cost.size_px[0] * cost.size_px[1] / 1e6 for cost in costs])
    medians_ms = np.array([np.median(cost.times_ms) for cost in costs])
    slope, intercept = np.polyfit(megapixels, medians_ms, 1, w=1 / medians_ms)
    residuals = np.abs(slope * megapixels + intercept - medians_ms) / medians_ms
    return float(slope), float(intercept), float(residuals.max())


# --- pictures ---------------------------------------------------------------------------------------------------

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 560, 400, 56
INK, CURVE, FLOOR = (40, 40, 40), (160, 90, 20), (60, 140, 60)


def _canvas(title: str, x_label: str) -> np.ndarray:
    canvas = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)
    _write(canvas, title, (MARGIN_PX, 30))
    _write(canvas, x_label, (MARGIN_PX, HEIGHT_PX - 12))
    corners = (MARGIN_PX, MARGIN_PX), (WIDTH_PX - 20, HEIGHT_PX - MARGIN_PX)
    cv2.rectangle(canvas, *corners, INK, 1)
    return canvas


def _write(canvas: np.ndarray, text: str, at: tuple[int, int]) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


def _at(x: float, y: float) -> tuple[int, int]:
    """Of shares of the plot, from its lower left corner."""
    return (
        round(MARGIN_PX + x * (WIDTH_PX - 20 - MARGIN_PX)),
        round(HEIGHT_PX - MARGIN_PX - y * (HEIGHT_PX - 2 * MARGIN_PX)),
    )


def _histogram(costs: Sequence[Cost]) -> np.ndarray:
    """Of 640x480's frames."""
    times_ms = next(cost.times_ms for cost in costs if cost.size_px == (640, 480))
    last_ms = np.percentile(times_ms, 99.5)
    counts, _ = np.histogram(times_ms, bins=40, range=(0, last_ms))
    canvas = _canvas(f"640x480: {len(times_ms)} frames", f"0 .. {last_ms:.1f} ms")
    for n, count in enumerate(counts):
        if count:
            cv2.rectangle(canvas, _at(n / 40, 0), _at((n + 0.9) / 40, count / counts.max()), CURVE, -1)
    return canvas


def _against_pixels(costs: Sequence[Cost], slope: float, intercept: float) -> np.ndarray:
    most_mp = max(cost.size_px[0] * cost.size_px[1] for cost in costs) / 1e6
    most_ms = max(float(np.median(cost.times_ms)) for cost in costs)
    canvas = _canvas(
        f"median (blue), floor (green), fit; up to {most_ms:.1f} ms", f"0 .. {most_mp:.2f} megapixels"
    )
    cv2.line(canvas, _at(0, intercept / most_ms), _at(1, (slope * most_mp + intercept) / most_ms), INK, 1)
    for cost in costs:
        x = cost.size_px[0] * cost.size_px[1] / 1e6 / most_mp
        cv2.circle(canvas, _at(x, float(np.median(cost.times_ms)) / most_ms), 5, CURVE, -1)
        cv2.circle(canvas, _at(x, cost.floor_ms / most_ms), 4, FLOOR, -1)
    return canvas
