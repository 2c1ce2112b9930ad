"""The benchmark counts what it says it counts, and what it is compared with makes the same picture."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from reference import ObviousFuser
from torch.utils.flop_counter import FlopCounterMode

from fusionproxy_ros import bench
from fusionproxy_ros.checkpoint import DEFAULT_STUDENT
from fusionproxy_ros.cli import main
from fusionproxy_ros.fuser import Fuser
from fusionproxy_ros.normalisation import NormalisationConfig
from fusionproxy_ros.scene import default_calibration
from fusionproxy_ros.student import load_student, weights_of


@pytest.mark.parametrize("size_px", [(640, 480), (500, 300)])
def test_the_arithmetic_counted_is_that_of_every_convolution_that_runs(size_px):
    student = load_student(DEFAULT_STUDENT)
    with FlopCounterMode(display=False) as counted:
        student(torch.zeros(1, 1, *size_px[::-1]), torch.zeros(1, 1, *size_px[::-1]))
    context = sum(2 * layer.weight.numel() for layer in student.context if isinstance(layer, torch.nn.Linear))
    assert bench.flops(student, size_px) == counted.get_total_flops() - context


def test_the_fit_of_a_straight_line_is_exact_and_of_another_curve_tells_how_far_off(monkeypatch):
    def costs(of):
        sizes = [(w, 100) for w in (1000, 4000, 10_000)]
        return [bench.Cost(size, np.array([of(size[0] / 10)]), {}, 1.0) for size in sizes]

    slope, intercept, worst = bench.linear_fit(costs(lambda kilopixels: 3 + kilopixels / 1000 * 20))
    assert (slope, intercept) == (pytest.approx(20), pytest.approx(3)) and worst < 1e-9
    assert bench.linear_fit(costs(lambda kilopixels: kilopixels**2))[2] > 0.2


def test_the_command_measures_every_size_and_number_of_pairs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SIZES_PX", ((160, 120), (640, 480)))
    monkeypatch.setattr(bench, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(bench, "PRODUCT", 128)
    arguments = ["bench", "--frames", "20", "--pairs", "1", "2", "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row["size_px"] for row in report["sizes"]] == [[160, 120], [640, 480]]
    for row in report["sizes"]:
        assert 0 < row["student_ms"] < row["median_ms"] <= row["p99_ms"] and row["floor_ms"] > 0
    assert report["pairs"].keys() == {"1", "2"}
    assert cv2.imread(str(tmp_path / "bench.png")).shape == (bench.HEIGHT_PX, 2 * bench.WIDTH_PX, 3)
    assert "640x480" in capsys.readouterr().out


def test_what_we_are_compared_with_makes_the_same_picture():
    size_px = 640, 480
    rgb, thermal, register = bench.footage(size_px)
    calibration = default_calibration(size_px, (320, 240))
    student = load_student(DEFAULT_STUDENT)
    ours = Fuser(weights_of(student), NormalisationConfig(), "cpu", 2)
    obvious = ObviousFuser(copy.deepcopy(student), calibration, 20.0, size_px, 2)
    pair = bench.stream(rgb, thermal, 0)
    fused = ours.fuse(pair, register).pixels
    theirs, data = obvious.fuse(pair.rgb.pixels.data, pair.thermal.pixels.data, pair.thermal.pixels.shape)
    difference = np.abs(fused.astype(int) - theirs)
    assert (
        np.median(difference) <= 1 and difference.mean() < 3
    )  # one resampling against two, and other percentiles
    assert bytes(data) == theirs.tobytes()
