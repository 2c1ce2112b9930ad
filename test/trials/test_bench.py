"""The benchmark counts what it says it counts, and what it is compared with makes the same picture."""

import copy
import json
import os
import sys

import cv2
import numpy as np
import pytest
import torch
from obvious_fuser import ObviousFuser
from torch.utils.flop_counter import FlopCounterMode

from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.fusion.fuser import Fuser
from fusionproxy_ros.fusion.network import load_student, weights_of
from fusionproxy_ros.fusion.settings import GainSettings
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.trials import bench
from fusionproxy_ros.trials.night_road import default_calibration


@pytest.mark.parametrize("size_px", [(640, 480), (500, 300)])
def test_the_arithmetic_counted_is_that_of_every_convolution_that_runs(size_px):
    student = load_student(DEFAULT_STUDENT)
    with FlopCounterMode(display=False) as counted:
        student(torch.zeros(1, 1, *size_px[::-1]), torch.zeros(1, 1, *size_px[::-1]))
    context = sum(2 * layer.weight.numel() for layer in student.context if isinstance(layer, torch.nn.Linear))
    assert bench.flops(weights_of(student), size_px) == counted.get_total_flops() - context


def test_the_fit_of_a_straight_line_is_exact_and_of_another_curve_tells_how_far_off(monkeypatch):
    def costs(of):
        sizes = [(w, 100) for w in (1000, 4000, 10_000)]
        return [bench.Cost(size, np.array([of(size[0] / 10)]), {}, 1.0) for size in sizes]

    slope, intercept, worst = bench.linear_fit(costs(lambda kilopixels: 3 + kilopixels / 1000 * 20))
    assert (slope, intercept) == (pytest.approx(20), pytest.approx(3)) and worst < 1e-9
    assert bench.linear_fit(costs(lambda kilopixels: kilopixels**2))[2] > 0.2


@pytest.fixture
def small_bench(monkeypatch, tmp_path):
    """Run the command on little work; the folder that it wrote to."""
    monkeypatch.setattr(bench, "SIZES_PX", ((160, 120), (640, 480)))
    monkeypatch.setattr(bench, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(bench, "PRODUCT", 128)

    def run():
        arguments = ["--frames", "20", "--pairs", "1", "2", "--out", str(tmp_path), "--device", "cpu"]
        assert main(["bench", *arguments]) == 0
        return tmp_path

    return run


@pytest.mark.slow
def test_the_command_measures_every_size_and_number_of_pairs(small_bench, capsys):
    pytest.importorskip("matplotlib", reason="the plots need matplotlib: pip install matplotlib")
    out = small_bench()
    report = json.loads((out / "bench.json").read_text())
    assert [row["size_px"] for row in report["sizes"]] == [[160, 120], [640, 480]]
    for row in report["sizes"]:
        assert 0 < row["student_ms"] < row["median_ms"] <= row["p99_ms"] and row["floor_ms"] > 0
    assert report["pairs"].keys() == {"1", "2"}
    assert min(report["machine"]["bytes_per_s"], report["machine"]["flops_per_s"]) > 0
    assert cv2.imread(str(out / "bench.png")).std() > 5
    assert "640x480" in capsys.readouterr().out


@pytest.mark.slow
def test_without_matplotlib_and_torch_the_figures_are_there_and_the_plots_cure_is_named(
    small_bench, monkeypatch, capsys
):
    for missing in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg", "torch"):
        monkeypatch.setitem(sys.modules, missing, None)
    out = small_bench()
    assert len(json.loads((out / "bench.json").read_text())["sizes"]) == 2
    assert not (out / "bench.png").exists()
    assert "pip install matplotlib" in capsys.readouterr().out


@pytest.mark.slow
def test_the_machine_is_measured_with_the_number_of_threads_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(bench, "_measured", environment_of_blas)
    before = dict(os.environ)
    assert bench.measure_machine(3) == {"3"}
    assert dict(os.environ) == before


def environment_of_blas(*_):
    return {os.environ[name] for name in bench.BLAS_THREADS}


@pytest.mark.slow
def test_what_we_are_compared_with_makes_the_same_picture():
    size_px = 640, 480
    rgb, thermal, register = bench.resized_road(size_px)
    calibration = default_calibration(size_px, (320, 240))
    student = load_student(DEFAULT_STUDENT)
    ours = Fuser(weights_of(student), GainSettings(), "cpu", 2)
    obvious = ObviousFuser(copy.deepcopy(student), calibration, 20.0, size_px, 2)
    pair = bench.nth_pair(rgb, thermal, 0)
    fused = ours.fuse(pair, register).pixels
    theirs, data = obvious.fuse(pair.rgb.pixels.data, pair.thermal.pixels.data, pair.thermal.pixels.shape)
    difference = np.abs(fused.astype(int) - theirs)
    assert (
        np.median(difference) <= 1 and difference.mean() < 3
    )  # one resampling against two, and other percentiles
    assert bytes(data) == theirs.tobytes()
