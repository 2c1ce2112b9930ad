"""The lesson of the night: that a student learns it and keeps what it knew by day."""

import json

import cv2
import numpy as np
import pytest
import torch

from fusionproxy_ros.distill import ensemble, night, train
from fusionproxy_ros.distill.data import TensorFileError, find_pairs, load, read_tensors
from fusionproxy_ros.fusion.network import load_student
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.metrics.fusion_metrics import RANKED

pytestmark = pytest.mark.slow
SIZE = 120, 160


def scene(light):
    """Luma at a level and thermal with a warm person; [0, 1]."""
    thermal = np.full(SIZE, 0.3, np.float32)
    thermal[50:80, 75:85] = 0.8
    rng = np.random.default_rng(0)
    return (light + cv2.resize(rng.uniform(-0.03, 0.03, (30, 40)), SIZE[::-1])).astype(np.float32), thermal


def test_what_is_urgent_weighs_more_and_a_picture_without_it_is_weighed_evenly():
    near = torch.zeros(2, 1, 8, 8)
    near[0, 0, :2, :2] = 1
    weight = night.warm_pixel_weight(near)
    torch.testing.assert_close(weight.mean((2, 3)), torch.ones(2, 1))
    assert weight[0, 0, 0, 0] == pytest.approx((1 + night.EXTRA_WEIGHT) * weight[0, 0, 7, 7].item())
    assert (weight[1] == 1).all()


@pytest.fixture(autouse=True)
def small_lessons(monkeypatch):
    """A ninth of the pixels of a real step; most crops of these scenes still hold the person."""
    monkeypatch.setattr(ensemble, "ENSEMBLE_CROP_PX", 96)
    monkeypatch.setattr(train, "BATCH", 3)


@pytest.fixture
def pairs(tmp_path):
    """Dark scenes with people, as files: (folder, examples)."""
    for index in range(5):
        luma, thermal = scene(0.04 + 0.01 * index)
        for kind, image in (("rgb", np.dstack([luma] * 3)), ("thermal", thermal)):
            path = tmp_path / "pairs" / "m3svd" / kind / f"{'abcde'[index]}_0000.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.rint(255 * image).astype(np.uint8))
    return tmp_path / "pairs", [load(pair) for pair in find_pairs(tmp_path / "pairs")]


def test_a_student_comes_nearer_to_what_is_asked_and_its_elder_stays_as_it_is(pairs, tmp_path):
    elder = load_student(DEFAULT_STUDENT)
    before = [tensor.clone() for tensor in elder.state_dict().values()]
    pupil = night.fine_tune(elder, "a", pairs[1], 30, 0, tmp_path / "a.state")
    wanted = night.answers(elder, pairs[1], np.random.default_rng(1))

    def error(student):
        with torch.inference_mode():
            answers = [student(*(p[None, None] / 255 for p in (e.luma, e.thermal)))[0, 0] for e in wanted]
        return sum((a - e.mean).abs().mean().item() for a, e in zip(answers, wanted, strict=True))

    assert error(pupil) < 0.8 * error(elder)
    assert all(torch.equal(a, b) for a, b in zip(elder.state_dict().values(), before, strict=True))


def test_the_command_writes_a_checkpoint_that_says_what_it_learned_before_and_now(pairs, tmp_path):
    out = tmp_path / "new" / "night.safetensors"
    arguments = ["--data", str(pairs[0]), "--out", str(out), "--steps", "3", "--student"]
    night.main([*arguments, str(DEFAULT_STUDENT)])
    described, of_elder = read_tensors(out)[1], read_tensors(DEFAULT_STUDENT)[1]
    assert described["teacher"] == of_elder["teacher"] and described["lesson"].startswith("night, 3 steps")
    measured, _, count = described["metrics"].partition("} on ")
    assert json.loads(measured + "}").keys() == set(RANKED) and count == "1 held-out pairs"
    assert load_student(out).widths == load_student(DEFAULT_STUDENT).widths
    with pytest.raises(TensorFileError, match="student"):  # the run on disk is another student's
        night.main([*arguments, str(out)])
