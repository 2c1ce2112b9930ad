"""Judge students on the pairs kept out of training, against classical fusion in the same run.

    fusionproxy evaluate --student full=out/full.safetensors --student plain=out/plain.safetensors

prints tables and writes, to --out,
    metrics.json  {set: {method: {metric: mean}}}; sets are those on disk, day, night, all and, of the pairs
                  that --ensembles has, teacher
    report.json   {measure: {row: {column: value}}}, measures and units as in MEASURES
    sheet.png     pictures to look at: figures alone reward the plain maximum
    teacher.png   the same of --ensembles, in grey
"""

import json
import math
import statistics
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from fusionproxy_ros.core.allocator import keep_freed_memory
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.frames import Frame, Mode, Pair
from fusionproxy_ros.core.pictures import captioned, spread, to_grey_levels
from fusionproxy_ros.distill.data import NO_DATA, Example, PairFile, default_pairs, find_pairs, load, split
from fusionproxy_ros.distill.ensemble import SAMPLES, load_ensembles
from fusionproxy_ros.distill.teacher import Teacher, load_denoiser
from fusionproxy_ros.distill.train import student_fuse
from fusionproxy_ros.fusion.colour import add_luma
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.network import Student, load_student, weights_of
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.geometry import registration
from fusionproxy_ros.metrics.classical import CLASSICAL, Fuse
from fusionproxy_ros.metrics.fusion_metrics import RANKED, psnr, similarity
from fusionproxy_ros.metrics.robustness import (
    clips,
    flat_thermal_psnr,
    flicker,
    ghost,
    misaligned,
    noisy_thermal_psnr,
)
from fusionproxy_ros.metrics.scores import Means, mean_ranks, mean_scores, print_scores, scores_of_pair

THREADS = 2
TIMED_RUNS = 50
# Mean grey level of luma below which a picture is night where its name does not tell: it parts 114 of MSRS's
# 123 pairs as their names do, and M3SVD's clip at night from those in smoke. RoadScene's nights, which its
# camera lifted to grey levels around 100, count as day.
NIGHT_LUMA = 55
SHEET_ROWS = 14  # half of them night
CELL_PX = 400  # width of a picture in a sheet
MEASURES = {
    "mean_rank": f"mean rank over {', '.join(RANKED)}; 1 is best",
    "to_teacher": "student to teacher mean",
    "misaligned": "thermal off by 30 px and 10 degrees: metrics over those without; doubled edges over RGB's own",
    "useless_thermal": "PSNR to luma in dB, thermal flat on all pairs or with slight noise on day pairs",
    "flicker": "change from frame to frame where both sources rest, over RGB's",
    "flicker_residual": "change from frame to frame that neither source explains, over RGB's change",
    "ms_per_frame": f"median ms per 640x480 frame on {THREADS} CPU threads: luma alone; with everything around it",
}


class EvaluationError(FusionError):
    """What is to be judged is missing, unreadable or ambiguous."""


class TeacherMeans:
    """The teacher as a function on 8-bit images: looks the mean of its ensemble up, in a folder of ensembles.

    Raises TensorFileError where there is none or a file is not one.
    """

    def __init__(self, folder: Path):
        self.ensembles = load_ensembles(folder)
        self.pairs = [(one.luma.numpy(), one.thermal.numpy()) for one in self.ensembles]
        self._means = {
            luma.tobytes(): one.mean.float().numpy()
            for (luma, _), one in zip(self.pairs, self.ensembles, strict=True)
        }

    def mean(self, luma: np.ndarray) -> np.ndarray:
        """(H, W) float32 in grey levels."""
        return self._means[luma.tobytes()] * 255

    def examples(self) -> list[Example]:
        """Its pairs, grey."""
        return [
            Example(
                PairFile("teacher", one.id, Path(), Path()), cv2.cvtColor(luma, cv2.COLOR_GRAY2BGR), thermal
            )
            for one, (luma, thermal) in zip(self.ensembles, self.pairs, strict=True)
        ]

    def __call__(self, luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
        return to_grey_levels(self._means[luma.tobytes()])


class StoredPictures:
    """Another method as a function on 8-bit images: looks its picture of a pair up, FOLDER/SET/ID.png, grey or colour.

    Raises EvaluationError where one is missing or of another size.
    """

    def __init__(self, folder: Path, examples: Sequence[Example]):
        self._lumas = {}
        for example in examples:
            path = folder / example.file.set / f"{example.file.id}.png"
            luma = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if luma is None or luma.shape != example.thermal.shape:
                raise EvaluationError(
                    f"{path}: not a picture of {example.thermal.shape[::-1]}; --pictures needs one of each pair kept "
                    "out of training"
                )
            self._lumas[example.luma.tobytes()] = luma

    def __call__(self, luma: np.ndarray, thermal: np.ndarray) -> np.ndarray:
        return self._lumas[luma.tobytes()]


def is_night(example: Example) -> bool:
    """By name where the set's names tell (MSRS: D or N at the end), else by NIGHT_LUMA."""
    if example.file.set == "msrs":
        return example.file.id.endswith("N")
    return bool(example.luma.mean() < NIGHT_LUMA)


def sets_of(example: Example) -> tuple[str, str, str]:
    return example.file.set, "night" if is_night(example) else "day", "all"


def metrics_of_sets(examples: Sequence[Example], methods: Mapping[str, Fuse]) -> dict[str, Means]:
    """{set: means}: each set on disk, then day, night, all."""
    of_sets = defaultdict(list)
    for example in tqdm(examples, "metrics", unit="pair"):
        one = scores_of_pair(example.luma, example.thermal, methods)
        for name in sets_of(example):
            of_sets[name].append(one)
    groups = ("day", "night", "all")
    order = [*sorted(of_sets.keys() - groups), *(name for name in groups if name in of_sets)]
    return {name: mean_scores(of_sets[name]) for name in order}


def to_teacher(teacher: TeacherMeans, students: Mapping[str, Fuse]) -> dict[str, dict[str, float]]:
    """{student: PSNR and SSIM to the teacher's mean, means over the ensembles}."""
    result = {}
    for name, fuse in students.items():
        compared = [(fuse(luma, thermal), teacher.mean(luma)) for luma, thermal in teacher.pairs]
        result[name] = {
            measure: statistics.mean(compare(*two) for two in compared)
            for measure, compare in (("PSNR dB", psnr), ("SSIM", similarity))
        }
    return result


def misaligned_thermal(
    examples: Sequence[Example], students: Mapping[str, Fuse], aligned: Means
) -> dict[str, dict[str, float]]:
    """{student: {metric: mean with misaligned thermal over that in `aligned`; ghost: mean, worst}}."""
    of_pairs, ghosts = [], defaultdict(list)
    for example in tqdm(examples, "misaligned", unit="pair"):
        luma, thermal = example.luma, misaligned(example.thermal, f"{example.file.set}/{example.file.id}")
        of_pairs.append(scores_of_pair(luma, thermal, students, RANKED))
        for name, fuse in students.items():
            ghosts[name].append(ghost(fuse(luma, thermal), luma, thermal))
    return {
        name: {metric: value / (aligned[name][metric] or math.nan) for metric, value in of_student.items()}
        | {"ghost": statistics.mean(ghosts[name]), "ghost, worst": max(ghosts[name])}
        for name, of_student in mean_scores(of_pairs).items()
    }


def useless_thermal(
    examples: Sequence[Example], day: Sequence[Example], students: Mapping[str, Fuse]
) -> dict[str, dict[str, float]]:
    """{student: worst and mean PSNR in dB to luma, for flat thermal and, by day, for slight noise}."""
    result: dict[str, dict[str, float]] = {name: {} for name in students}
    for label, measure, members in (
        ("flat", flat_thermal_psnr, examples),
        ("noise", noisy_thermal_psnr, day),
    ):
        for name, fuse in students.items():
            if values := [measure(example.luma, fuse) for example in members]:
                result[name] |= {f"{label}, worst": min(values), f"{label}, mean": statistics.mean(values)}
    return result


def flicker_on(folder: Path, methods: Mapping[str, Fuse]) -> dict[str, dict[str, dict[str, float]]]:
    """{flicker | flicker_residual: {method: {clip: value}}}; empty, and said, where there are no clips."""
    result: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for clip_name, clip in tqdm(clips(folder), "video", unit="clip"):
        for name, fuse in methods.items():
            result["flicker"][name][clip_name], result["flicker_residual"][name][clip_name] = flicker(
                clip, fuse
            )
    if not result:
        print(f"no clips (NAME_rgb.mp4, NAME_thermal.mp4) in {folder}: flicker is not measured")
    return result


def median_ms(function: Callable, *arguments) -> float:
    """Median wall time of one call in milliseconds."""
    times = []
    for _ in range(TIMED_RUNS + 5):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


def time_methods(students: Mapping[str, Student], teacher: Path | None) -> dict[str, dict[str, float]]:
    """{method: ms per 640x480 frame}: luma, and for students all of Fuser.fuse.

    teacher: checkpoint, to time one ensemble of its samples.
    """
    rng = np.random.default_rng(0)
    bgr = cv2.blur(rng.integers(0, 256, (480, 640, 3), np.uint8), (5, 5))
    luma, thermal = cv2.split(bgr)[:2]
    result = {name: {"luma": median_ms(fuse, luma, thermal)} for name, fuse in CLASSICAL.items()}
    pair = Pair(Frame(0, "", bgr, "bgr8"), Frame(0, "", thermal, "mono8"), Mode.FUSED)
    for name, student in students.items():
        fuser = Fuser(weights_of(student), GainSettings(), "cpu", THREADS)
        result[name] = {
            "luma": median_ms(fuser.fuse_luma, luma, thermal, None),
            "Fuser.fuse": median_ms(fuser.fuse, pair, registration.identity()),
        }
    if teacher:
        start = time.perf_counter()
        Teacher(load_denoiser(teacher)).sample(luma, thermal, range(SAMPLES))
        result["teacher's ensemble"] = {"luma": (time.perf_counter() - start) * 1e3}
    return result


def evenly(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` pairs, at even distances in the order of their set and, within it, from dark to bright."""
    ordered = sorted(examples, key=lambda example: (example.file.set, example.luma.mean()))
    return spread(ordered, count)


def contact_sheet(examples: Sequence[Example], methods: Mapping[str, Fuse]) -> np.ndarray:
    """A sheet that a person can judge, BGR: a row per pair, with both sources and each method's picture in colour."""
    rows = []
    for example in examples:
        luma, thermal = example.luma, example.thermal
        cells = {f"RGB, {example.file.set} {example.file.id}": example.bgr}
        cells["thermal"] = cv2.cvtColor(thermal, cv2.COLOR_GRAY2BGR)
        cells |= {name: add_luma(example.bgr, luma, fuse(luma, thermal)) for name, fuse in methods.items()}
        size = CELL_PX, round(CELL_PX * luma.shape[0] / luma.shape[1])
        rows.append(
            np.hstack(
                [
                    captioned(cv2.resize(cell, size, interpolation=cv2.INTER_AREA), title)
                    for title, cell in cells.items()
                ]
            )
        )
    return np.vstack(rows)


def check_names(names: Sequence[str]) -> None:
    """Raises EvaluationError where two methods would share a name."""
    for name, count in Counter([*names, *CLASSICAL, "teacher"]).items():
        if count > 1:
            raise EvaluationError(f"two methods are called {name}: tell them apart by NAME=PATH")


def run(args: Namespace) -> int:
    """`fusionproxy evaluate`, with the arguments of cli/evaluate.py; writes into args.out."""
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    data = args.data or default_pairs()
    if data is None:
        raise EvaluationError(NO_DATA)
    args.out.mkdir(parents=True, exist_ok=True)
    named = args.student or [(DEFAULT_STUDENT.stem, DEFAULT_STUDENT)]
    check_names([name for name, _ in (*named, *args.pictures)])
    networks = {name: load_student(path) for name, path in named}
    students = {name: student_fuse(network) for name, network in networks.items()}
    teacher = TeacherMeans(args.ensembles) if args.ensembles else None
    examples = [load(pair) for pair in split(find_pairs(data))[1]]
    if not examples:
        raise EvaluationError(f"{data}: too few pairs to keep a fifth of the scenes out; add pairs")

    day = [example for example in examples if not is_night(example)]
    others = {name: StoredPictures(folder, examples) for name, folder in args.pictures}
    means = metrics_of_sets(examples, CLASSICAL | students | others)
    counts = Counter(name for example in examples for name in sets_of(example))
    report: dict[str, Any] = {"misaligned": misaligned_thermal(examples, students, means["all"])}
    if teacher:
        with_teacher = CLASSICAL | {"teacher": teacher} | students
        means["teacher"] = mean_scores([scores_of_pair(*pair, with_teacher) for pair in teacher.pairs])
        counts["teacher"] = len(teacher.pairs)
        report["to_teacher"] = to_teacher(teacher, students)
    report["mean_rank"] = {name: mean_ranks(of_set) for name, of_set in means.items()}
    report["useless_thermal"] = useless_thermal(examples, day, students)
    report |= flicker_on(data.parent / "video", CLASSICAL | students)
    report["ms_per_frame"] = time_methods(networks, args.teacher)

    print_report(means, counts, report)
    (args.out / "metrics.json").write_text(json.dumps(means, indent=1))
    (args.out / "report.json").write_text(json.dumps(report, indent=1))
    write_sheets(args.out, examples, teacher, others, students)
    print(f"\nwrote metrics.json, report.json and sheet.png to {args.out}")
    return 0


def print_report(means: Mapping[str, Means], counts: Mapping[str, int], report: Mapping[str, Any]) -> None:
    """The tables: of each set its metrics, then each of MEASURES that the report has."""
    for name, of_set in means.items():
        print_scores(f"{name} ({counts[name]} pairs)", of_set)
    for measure, title in MEASURES.items():
        if measure in report:
            print_scores(title, report[measure])


def write_sheets(
    out: Path,
    examples: Sequence[Example],
    teacher: TeacherMeans | None,
    others: Mapping[str, Fuse],
    students: Mapping[str, Fuse],
) -> None:
    """sheet.png of the pairs, half of them night; and, where there is a teacher, teacher.png of its pairs."""
    classical = {name: CLASSICAL[name] for name in ("maximum", "guided filter")}
    if teacher:
        methods = classical | {"teacher": teacher} | dict(students)
        cv2.imwrite(str(out / "teacher.png"), contact_sheet(evenly(teacher.examples(), SHEET_ROWS), methods))
    rows = evenly([example for example in examples if is_night(example)], SHEET_ROWS // 2)
    rows += evenly([example for example in examples if not is_night(example)], SHEET_ROWS // 2)
    methods = classical | dict(others) | dict(students)
    cv2.imwrite(str(out / "sheet.png"), contact_sheet(rows, methods))
