"""Doubled outlines: measured as the evaluation does; people do not pay; a student unlearns them."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fusionproxy_ros.checkpoint import DEFAULT_STUDENT
from fusionproxy_ros.distill import outlines
from fusionproxy_ros.distill.data import Example, PairFile, to_tensor
from fusionproxy_ros.distill.robustness import edges_and_ghosts, ghost
from fusionproxy_ros.student import load_student

CPU = torch.device("cpu")


class Painted(nn.Module):
    """A student that answers with one picture, whatever it sees."""

    def __init__(self, picture):
        super().__init__()
        self.picture = nn.Parameter(to_tensor(picture))

    def forward(self, luma, thermal):
        return self.picture * 1


def haze_and_walls(seed=0):
    """Luma of weak edges on the left, thermal of strong ones on the right: cold walls, and a warm person."""
    luma, thermal = np.full((2, 192, 256), 120, np.uint8)
    for x in range(10, 110, 20):
        luma[:, x : x + 8] = 135
    for x in range(140, 240, 24):
        thermal[:90, x : x + 10] = 20
    thermal[130:170, 180:192] = 240
    noise = np.random.default_rng(seed).integers(-2, 3, (2, *luma.shape))
    return [np.uint8(image + n) for image, n in zip((luma, thermal), noise, strict=True)]


def example(seed):
    luma, thermal = haze_and_walls(seed)
    return Example(PairFile("m3fd", str(seed), None, None), np.dstack([luma] * 3), thermal)


def test_doubling_is_what_the_evaluation_calls_ghost():
    luma, thermal = haze_and_walls()
    for picture in (luma, thermal, np.maximum(luma, thermal)):
        ours = outlines.doubling(Painted(picture), luma, thermal, CPU).item()
        assert ours == pytest.approx(ghost(picture, luma, thermal), rel=5e-3)


def test_no_gradient_reaches_what_is_warm():
    luma, thermal = haze_and_walls()
    student = Painted(np.maximum(luma, thermal) // 2 + thermal // 2)
    outlines.doubling(student, luma, thermal, CPU).backward()
    pulled = student.picture.grad[0, 0].abs().numpy() > 0
    ghosts = edges_and_ghosts(luma, thermal)[1]
    person, walls = np.s_[129:171, 179:193], np.s_[:95, 136:250]
    assert ghosts[person].any() and ghosts[walls].any()
    assert pulled[walls].any() and not pulled[person].any()


def test_a_picture_without_edges_costs_nothing():
    flat = np.full((48, 64), 100, np.uint8)
    student = load_student(DEFAULT_STUDENT)
    assert outlines.doubling(student, flat, flat, CPU) == 0
    assert outlines.excess(student, [], np.random.default_rng(0), CPU) == 0


def test_thermal_is_moved_as_far_as_in_the_evaluation_but_never_hardly():
    dot = np.zeros((201, 201), np.uint8)
    cv2.circle(dot, (100, 100), 3, 255, -1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        y, x = np.argwhere(outlines.far_off(dot, rng) > 100).mean(0)
        assert 17 <= np.hypot(x - 100, y - 100) <= 31


def test_practice_makes_a_student_double_less_on_pictures_that_it_is_practised_on():
    student = load_student(DEFAULT_STUDENT).requires_grad_(True)
    clear = Example(
        PairFile("m3fd", "clear", None, None),
        np.dstack([haze_and_walls()[1]] * 3),
        np.full((192, 256), 90, np.uint8),
    )
    practised = outlines.to_practise(student, [clear, *map(example, range(3))])
    assert [one.file.id for one in practised] == ["0", "1", "2"]
    optimiser, rng = torch.optim.Adam(student.parameters(), 1e-3), np.random.default_rng(0)

    def mean_excess():
        with torch.no_grad():
            return np.mean(
                [outlines.excess(student, practised, np.random.default_rng(n), CPU) for n in range(6)]
            )

    before = mean_excess()
    for _ in range(20):
        optimiser.zero_grad()
        outlines.excess(student, practised, rng, CPU).backward()
        optimiser.step()
    assert mean_excess() < 0.8 * before
