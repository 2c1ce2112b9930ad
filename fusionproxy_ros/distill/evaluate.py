"""Judge a student on the pairs kept out of training, against classical fusion in the same run.

    python -m fusionproxy_ros.distill.evaluate --data ../shared/data/pairs --out out/evaluate

Prints a table per set and over all; --out gets metrics.json {set: {method: {metric: mean}}} and sheet.png.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from fusionproxy_ros.distill.data import DATA, Example, find_pairs, load, split, to_grey_levels, to_tensor
from fusionproxy_ros.distill.metrics import METRICS, psnr
from fusionproxy_ros.fuser import keep_freed_memory
from fusionproxy_ros.student import DEFAULT_STUDENT, Student, load_student

THREADS = 2
TIMED_RUNS = 50
FLAT_LEVELS = (0, 85, 170, 255)  # grey levels of a dead thermal camera
SHEET_WIDTH = 320

# (luma, thermal), each (H, W) uint8 -> fused luma, (H, W) uint8
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def average(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """floor((Y + T) / 2)."""
    return ((luma.astype(np.uint16) + thermal) // 2).astype(np.uint8)


def maximum(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """max(Y, T)."""
    return np.maximum(luma, thermal)


def laplacian_pyramid(luma: np.ndarray, thermal: np.ndarray, levels: int = 4) -> np.ndarray:
    """Burt and Kolczynski's pyramid fusion: the base averaged, of each detail the stronger (ICCV 1993)."""
    y, t = luma.astype(np.float32), thermal.astype(np.float32)
    details = []
    for _ in range(levels):
        small_y, small_t = cv2.pyrDown(y), cv2.pyrDown(t)
        size = y.shape[::-1]
        detail_y, detail_t = y - cv2.pyrUp(small_y, dstsize=size), t - cv2.pyrUp(small_t, dstsize=size)
        details.append(np.where(np.abs(detail_y) >= np.abs(detail_t), detail_y, detail_t))
        y, t = small_y, small_t
    fused = (y + t) / 2
    for detail in reversed(details):
        fused = cv2.pyrUp(fused, dstsize=detail.shape[::-1]) + detail
    return to_grey_levels(fused / 255)


def guided_filter(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Li, Kang and Hu, "Image fusion with guided filtering", IEEE TIP 22 (2013), its parameters."""
    images = [image.astype(np.float32) / 255 for image in (luma, thermal)]
    saliency = [cv2.GaussianBlur(np.abs(cv2.Laplacian(image, -1)), (11, 11), 5) for image in images]
    is_luma = (saliency[0] >= saliency[1]).astype(np.float32)
    bases = [cv2.blur(image, (31, 31)) for image in images]
    fused = np.zeros_like(images[0])
    for layers, radius, eps in (
        (bases, 45, 0.3),
        ([image - base for image, base in zip(images, bases, strict=True)], 7, 1e-6),
    ):
        weights = [
            _guide(image, mask, radius, eps)
            for image, mask in zip(images, (is_luma, 1 - is_luma), strict=True)
        ]
        total = weights[0] + weights[1] + 1e-6
        fused += (weights[0] * layers[0] + weights[1] * layers[1]) / total
    return to_grey_levels(fused)


def _guide(guide: np.ndarray, image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    def mean(values):
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    mean_g, mean_i = mean(guide), mean(image)
    slope = (mean(guide * image) - mean_g * mean_i) / (mean(guide * guide) - mean_g**2 + eps)
    return np.clip(mean(slope) * guide + mean(mean_i - slope * mean_g), 0, 1)


def student_fuse(student: Student) -> Fuse:
    """The student as a function on 8-bit images."""

    @torch.inference_mode()
    def fuse(luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
        return to_grey_levels(student(to_tensor(luma), to_tensor(thermal))[0, 0].numpy())

    return fuse


def colour(example: Example, fused: np.ndarray) -> np.ndarray:
    """Fused luma in RGB's colours: the change of luma added to each channel. (H, W, 3) uint8 BGR."""
    change = fused.astype(np.int16) - example.luma
    return np.clip(example.bgr + change[..., None], 0, 255).astype(np.uint8)


def median_ms(function: Callable, *arguments) -> float:
    """Median wall time of one call in milliseconds."""
    times = []
    for _ in range(TIMED_RUNS + 5):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


def time_methods(methods: dict[str, Fuse], student: Student) -> dict[str, float]:
    """Median ms per 640x480 frame on THREADS threads; the student's network alone, on float tensors."""
    rng = np.random.default_rng(0)
    luma, thermal = (cv2.blur(rng.integers(0, 256, (480, 640)).astype(np.uint8), (5, 5)) for _ in range(2))
    times = {name: median_ms(fuse, luma, thermal) for name, fuse in methods.items() if name != "student"}
    with torch.inference_mode():
        times["student"] = median_ms(student, to_tensor(luma), to_tensor(thermal))
    return times


def mean_ranks(means: dict[str, dict[str, float]]) -> dict[str, float]:
    """{method: mean over the metrics of its rank, 1 is best} from {method: {metric: mean}}."""
    ranks = defaultdict(list)
    for metric in METRICS:
        order = sorted(means, key=lambda method: -means[method][metric])
        for rank, method in enumerate(order, 1):
            ranks[method].append(rank)
    return {method: statistics.mean(ranks[method]) for method in means}


def flat_thermal_psnr(examples: Sequence[Example], fuse: Fuse) -> list[float]:
    """PSNR in dB of the fused picture to luma, for each example with each constant thermal image."""
    return [
        psnr(fuse(example.luma, np.full_like(example.luma, level)), example.luma)
        for example in examples
        for level in FLAT_LEVELS
    ]


def sheet(examples: Sequence[Example], fuse: Fuse) -> np.ndarray:
    """Contact sheet, BGR: RGB | thermal | average | maximum | student in colour; per set dark to bright."""
    rows = []
    for name in sorted({example.file.set for example in examples}):
        members = sorted((e for e in examples if e.file.set == name), key=lambda e: e.luma.mean())
        for share in (0.05, 0.35, 0.65, 0.95):
            example = members[int(share * len(members))]
            greys = [
                example.thermal,
                average(example.luma, example.thermal),
                maximum(example.luma, example.thermal),
            ]
            cells = [example.bgr, *(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) for grey in greys)]
            cells.append(colour(example, fuse(example.luma, example.thermal)))
            height = round(SHEET_WIDTH * example.luma.shape[0] / example.luma.shape[1])
            row = np.hstack(
                [cv2.resize(cell, (SHEET_WIDTH, height), interpolation=cv2.INTER_AREA) for cell in cells]
            )
            label = f"{name} {example.file.id}"
            rows.append(cv2.putText(row, label, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 255, 255), 1))
    return np.vstack(rows)


def print_table(title: str, means: dict[str, dict[str, float]], ms: dict[str, float]) -> None:
    print(f"\n{title:22}" + "".join(f"{column:>9}" for column in (*METRICS, "rank", "ms")))
    ranks = mean_ranks(means)
    for method, values in means.items():
        cells = [f"{values[metric]:9.4f}" for metric in METRICS]
        print(f"{method:22}" + "".join(cells) + f"{ranks[method]:9.2f}{ms[method]:9.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Judge a student on the pairs kept out of training.")
    parser.add_argument("--data", type=Path, default=DATA / "pairs", help="folder of SET/{rgb,thermal}/ID.*")
    parser.add_argument("--student", type=Path, default=DEFAULT_STUDENT, help="checkpoint (.safetensors)")
    parser.add_argument("--out", type=Path, help="folder for metrics.json and sheet.png")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)

    student = load_student(options.student)
    methods = {
        "average": average,
        "maximum": maximum,
        "Laplacian pyramid": laplacian_pyramid,
        "guided filter": guided_filter,
        "student": student_fuse(student),
    }
    examples = [load(pair) for pair in split(find_pairs(options.data))[1]]
    ms = time_methods(methods, student)
    scores = defaultdict(lambda: defaultdict(list))
    for example in tqdm(examples, "evaluate", unit="pair"):
        luma, thermal = example.luma, example.thermal
        for method, fuse in methods.items():
            fused = fuse(luma, thermal)
            values = {name: metric(fused, luma, thermal) for name, metric in METRICS.items()}
            for name in (example.file.set, "all"):
                scores[name][method].append(values)
    means = {
        name: {
            method: {metric: statistics.mean(one[metric] for one in values) for metric in METRICS}
            for method, values in of_set.items()
        }
        for name, of_set in sorted(scores.items(), key=lambda item: item[0] == "all")
    }
    for name, of_set in means.items():
        print_table(f"{name} ({len(scores[name]['student'])} pairs)", of_set, ms)
    unguided = {method: values for method, values in means["all"].items() if method != "guided filter"}
    ranks = ", ".join(f"{method} {rank:.2f}" for method, rank in mean_ranks(unguided).items())
    print(f"\nmean rank over all without the guided filter: {ranks}")
    worst = min(flat_thermal_psnr(examples, methods["student"]))
    print(f"flat thermal: PSNR to luma at least {worst:.1f} dB")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "metrics.json").write_text(json.dumps(means, indent=1))
        cv2.imwrite(str(options.out / "sheet.png"), sheet(examples, methods["student"]))
        print(f"wrote {options.out / 'metrics.json'} and {options.out / 'sheet.png'}")


if __name__ == "__main__":
    main()
