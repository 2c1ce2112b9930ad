"""What a frozen RGB detector finds at night: in RGB, in thermal, and in what fusion makes of both.

    python test/benchmarks/bench_detector.py --detector yolov5n.onnx [--student NAME=CHECKPOINT ...]
        [--pictures NAME=FOLDER ...]

--pictures: another method's fused pictures, FOLDER/msrs/ID.png, as of `fusionproxy evaluate`.

The detector is the user's: ONNX, one input (1, 3, 640, 640), one output (1, N, 5 + 80) of COCO's classes, as yolov5's
export writes it; it was never trained on fused pictures. The pictures are the 68 night pairs of
../shared/data/pairs/msrs; night_labels.json has our own boxes of the people and vehicles in them. Pairs are misaligned
by some pixels: people's boxes follow thermal as a rule, vehicles' RGB, which is why IoU 0.3 is printed beside 0.5.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from fusionproxy_ros.distill.data import NO_DATA, default_pairs
from fusionproxy_ros.distill.train import student_fuse
from fusionproxy_ros.fusion.colour import add_luma
from fusionproxy_ros.fusion.network import load_student
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.metrics.classical import CLASSICAL

LABELS = Path(__file__).with_name("night_labels.json")
CLASSES = {"person": [0], "vehicle": [2, 5, 7]}  # COCO's car, bus, truck
SIDE_PX = 640
LEAST_SCORE = 0.01
NMS_IOU = 0.5
IGNORED_SHARE = 0.5  # of a detection inside an ignored region


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of a box and (N, 4) others, all x0, y0, x1, y1."""
    area, areas = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, boxes))
    both = _intersection(box, boxes)
    return both / (area + areas - both)


def average_precision(
    found: dict[str, list], labelled: dict[str, np.ndarray], ignored: dict[str, np.ndarray], least_iou: float
) -> float:
    """Area under the interpolated curve of precision against recall (PASCAL VOC since 2010).

    found: {picture: [(score, box)]}. labelled, ignored: {picture: (N, 4)}; a detection that fits no label and lies half
    in an ignored region counts neither way. Each label is found once, by the best-scored detection that fits.
    """
    ranked = sorted(((s, id, box) for id, boxes in found.items() for s, box in boxes), key=lambda d: -d[0])
    taken, right = {id: np.zeros(len(boxes), bool) for id, boxes in labelled.items()}, []
    for _, id, box in ranked:
        overlap = np.where(taken[id], 0, iou(box, labelled[id])) if len(labelled[id]) else np.zeros(1)
        if overlap.max() >= least_iou:
            taken[id][overlap.argmax()] = True
            right.append(True)
        elif not (_intersection(box, ignored[id]) >= IGNORED_SHARE * np.prod(box[2:] - box[:2])).any():
            right.append(False)
    hits = np.cumsum(right)
    recall = hits / sum(map(len, labelled.values()))
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * precision).sum())


def _intersection(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], boxes[..., :2]), np.minimum(box[2:], boxes[..., 2:])
    return np.prod(np.clip(high - low, 0, None), axis=-1)


class Detector:
    """A frozen network: (H, W, 3) uint8 BGR in, {class: [(score, box)]} out."""

    def __init__(self, path: Path):
        self._net = cv2.dnn.readNetFromONNX(str(path))

    def __call__(self, bgr: np.ndarray) -> dict[str, list]:
        height, width = bgr.shape[:2]
        scale = SIDE_PX / max(height, width)
        small = cv2.resize(bgr, (round(width * scale), round(height * scale)))
        top, left = ((SIDE_PX - side) // 2 for side in small.shape[:2])
        square = np.full((SIDE_PX, SIDE_PX, 3), 114, np.uint8)
        square[top : top + small.shape[0], left : left + small.shape[1]] = small
        self._net.setInput(cv2.dnn.blobFromImage(square, 1 / 255, swapRB=True))
        rows = self._net.forward()[0].astype(np.float64)
        corners = np.hstack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2])
        corners = (corners - [left, top, left, top]) / scale
        result = {}
        for name, members in CLASSES.items():
            scores = rows[:, 4] * rows[:, 5:][:, members].max(1)
            sizes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
            kept = cv2.dnn.NMSBoxes(sizes.tolist(), scores.tolist(), LEAST_SCORE, NMS_IOU)
            result[name] = [(scores[index], corners[index]) for index in kept]
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", type=Path, required=True, help="ONNX, see above")
    parser.add_argument(
        "--data",
        type=Path,
        default=default_pairs() and default_pairs() / "msrs",
        help="folder of rgb/ and thermal/; if not given $FUSIONPROXY_DATA/pairs/msrs",
    )
    parser.add_argument("--student", action="append", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--pictures", action="append", default=[], metavar="NAME=FOLDER")
    args = parser.parse_args()
    if args.data is None:
        parser.error(NO_DATA)
    detector, labels = Detector(args.detector), json.loads(LABELS.read_text())
    students = {"shipped": DEFAULT_STUDENT} | dict(pair.split("=", 1) for pair in args.student)
    methods: dict[str, Callable] = {name: student_fuse(load_student(path)) for name, path in students.items()}
    methods |= CLASSICAL
    others = dict(pair.split("=", 1) for pair in args.pictures)
    found = {name: {} for name in ("RGB", "thermal", *methods, *others)}
    for id in tqdm(labels, "detect", unit="pair"):
        bgr = cv2.imread(str(next((args.data / "rgb").glob(f"{id}.*"))))
        thermal = cv2.imread(str(next((args.data / "thermal").glob(f"{id}.*"))), cv2.IMREAD_GRAYSCALE)
        luma = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        found["RGB"][id] = detector(bgr)
        found["thermal"][id] = detector(cv2.cvtColor(thermal, cv2.COLOR_GRAY2BGR))
        for name, fuse in methods.items():
            found[name][id] = detector(add_luma(bgr, luma, fuse(luma, thermal)))
        for name, folder in others.items():
            theirs = cv2.imread(str(Path(folder) / "msrs" / f"{id}.png"), cv2.IMREAD_GRAYSCALE)
            found[name][id] = detector(add_luma(bgr, luma, theirs))
    boxes = {
        kind: {id: np.array(of_id[kind], float).reshape(-1, 4) for id, of_id in labels.items()}
        for kind in (*CLASSES, "ignore")
    }
    counts = ", ".join(f"{sum(map(len, boxes[name].values()))} {name}s" for name in CLASSES)
    print(f"{args.detector.name}, {len(labels)} night pairs, {counts}: average precision at IoU 0.5 (at 0.3)")
    print(f"{'':18}" + "".join(f"{name:>18}" for name in CLASSES))
    for method, of_method in found.items():
        cells = ""
        for name in CLASSES:
            of_class = {id: detections[name] for id, detections in of_method.items()}
            strict, loose = (average_precision(of_class, boxes[name], boxes["ignore"], t) for t in (0.5, 0.3))
            cells += f"{strict:10.3f} ({loose:.3f})"
        print(f"{method:18}{cells}")


if __name__ == "__main__":
    main()
