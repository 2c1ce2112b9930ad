"""The judge of detections (bench_detector.py) against cases that can be worked out by hand."""

import json

import numpy as np
import pytest
from bench_detector import CLASSES, LABELS, average_precision, iou

NONE = {"a": np.zeros((0, 4)), "b": np.zeros((0, 4))}
LEFT, RIGHT = np.array([0.0, 0, 10, 20]), np.array([30.0, 0, 40, 20])
LABELLED = {"a": np.array([LEFT, RIGHT]), "b": np.zeros((0, 4))}


def found(*of_a, b=()):
    return {"a": list(of_a), "b": list(b)}


def test_overlap_is_shared_area_over_covered_area():
    assert iou(LEFT, np.array([LEFT, LEFT + 5, RIGHT])) == pytest.approx([1, 75 / 325, 0])


def test_all_found_and_nothing_else_is_one_and_nothing_found_is_zero():
    assert average_precision(found((0.2, LEFT), (0.9, RIGHT)), LABELLED, NONE, 0.5) == 1
    assert average_precision(found(), LABELLED, NONE, 0.5) == 0


def test_a_false_alarm_costs_by_where_it_ranks():
    wrong = LEFT + 100
    first = average_precision(found((0.9, wrong), (0.5, LEFT), (0.4, RIGHT)), LABELLED, NONE, 0.5)
    last = average_precision(found((0.3, wrong), (0.5, LEFT), (0.4, RIGHT)), LABELLED, NONE, 0.5)
    elsewhere = average_precision(
        found((0.5, LEFT), (0.4, RIGHT), b=[(0.45, LEFT)]), LABELLED, NONE, 0.5
    )  # of a picture without labels
    assert (first, last, elsewhere) == (pytest.approx(2 / 3), 1, pytest.approx(1 / 2 + 1 / 2 * 2 / 3))


def test_a_second_detection_of_one_label_is_a_false_alarm():
    twice = found((0.9, LEFT), (0.8, LEFT), (0.7, RIGHT))
    assert average_precision(twice, LABELLED, NONE, 0.5) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_the_asked_overlap_decides():
    near = LEFT + np.array([3, 0, 3, 0])  # 7 of 13
    for least, expected in ((0.5, 0.5), (0.6, 0.0)):
        assert average_precision(found((0.9, near)), LABELLED, NONE, least) == expected


def test_what_lies_in_an_ignored_region_counts_neither_way():
    ignored = NONE | {"a": np.array([[95.0, 0, 200, 200]])}
    detections = found((0.9, LEFT + 100), (0.5, LEFT), (0.4, RIGHT))
    assert average_precision(detections, LABELLED, ignored, 0.5) == 1


def test_the_labels_are_boxes_inside_the_pictures():
    labels = json.loads(LABELS.read_text())
    assert len(labels) == 68
    for of_id in labels.values():
        assert of_id.keys() == {*CLASSES, "ignore"}
        for x0, y0, x1, y1 in (box for boxes in of_id.values() for box in boxes):
            assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480
