import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.fusion.network import Student, load_student, save_student
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT, StudentError

LIMIT_PARAMETERS = 200_000


@pytest.fixture(scope="module")
def shipped():
    return load_student(DEFAULT_STUDENT)


@pytest.fixture
def checkpoint(tmp_path):
    """A small random student on disk: (student, path)."""
    torch.manual_seed(0)
    student = Student((8, 8, 8)).eval()
    torch.nn.init.normal_(student.head.weight, std=0.1)
    path = tmp_path / "student.safetensors"
    save_student(student, path, {"teacher": "none"})
    return student, path


def night_scene(height=240, width=320):
    """Smooth dark RGB luma with a lamp, and thermal with a warm disc that luma does not show; [0, 1]."""
    rng = np.random.default_rng(0)
    luma = cv2.resize(rng.uniform(0.02, 0.12, (8, 10)), (width, height))
    cv2.circle(luma, (260, 60), 12, 1.0, -1)
    thermal = cv2.resize(rng.uniform(0.25, 0.35, (8, 10)), (width, height))
    cv2.circle(thermal, (100, 140), 20, 0.9, -1)
    return tuple(torch.from_numpy(image.astype(np.float32))[None, None] for image in (luma, thermal))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 128), (480, 640), (511, 333)])
def test_any_size_comes_out_as_it_went_in(shipped, size):
    luma, thermal = torch.rand(2, 1, 1, *size)
    fused = shipped(luma, thermal)
    assert fused.shape == luma.shape and fused.dtype == torch.float32
    assert fused.min() >= 0 and fused.max() <= 1


def test_a_batch_gives_what_its_images_give_alone(shipped):
    luma, thermal = torch.rand(2, 3, 1, 64, 80)
    alone = torch.cat([shipped(luma[i : i + 1], thermal[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(shipped(luma, thermal), alone, atol=1e-5, rtol=0)


def test_where_the_weight_is_zero_the_result_is_luma_bit_for_bit(shipped):
    luma, thermal = torch.rand(2, 1, 1, 96, 128)
    weight = torch.zeros_like(luma)
    weight[..., 40:] = torch.rand(1)
    fused = shipped(luma, thermal, weight)
    assert torch.equal(fused[..., :40], luma[..., :40])
    assert not torch.equal(fused[..., 40:], luma[..., 40:])


def test_full_weight_is_no_weight(shipped):
    luma, thermal = night_scene()
    torch.testing.assert_close(shipped(luma, thermal, torch.ones_like(luma)), shipped(luma, thermal))


def test_inputs_stay_untouched(shipped):
    luma, thermal = torch.rand(2, 1, 1, 64, 64)
    before = luma.clone(), thermal.clone()
    shipped(luma, thermal, torch.full_like(luma, 0.5))
    assert torch.equal(luma, before[0]) and torch.equal(thermal, before[1])


def test_the_same_input_gives_the_same_output(shipped):
    luma, thermal = night_scene()
    assert torch.equal(shipped(luma, thermal), load_student(DEFAULT_STUDENT)(luma, thermal))


def test_the_shipped_student_is_small(shipped):
    assert sum(parameter.numel() for parameter in shipped.parameters()) <= LIMIT_PARAMETERS
    assert not any(parameter.requires_grad for parameter in shipped.parameters()) and not shipped.training


@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_flat_thermal_image_gives_luma_back(shipped, level):
    rng = np.random.default_rng(1)
    texture = cv2.resize(rng.uniform(0, 1, (30, 40)), (320, 240), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    for luma in (torch.from_numpy(texture.astype(np.float32))[None, None], night_scene()[0]):
        error = (shipped(luma, torch.full_like(luma, level)) - luma).square().mean()
        assert -10 * torch.log10(error) >= 35


def test_a_person_only_thermal_sees_becomes_visible_and_the_lamp_stays_lit(shipped):
    luma, thermal = night_scene()
    fused = shipped(luma, thermal)[0, 0].numpy()
    disc, ring = np.zeros(fused.shape, np.uint8), np.zeros(fused.shape, np.uint8)
    cv2.circle(disc, (100, 140), 17, 1, -1)
    cv2.circle(ring, (100, 140), 34, 1, 8)
    assert fused[disc > 0].mean() - fused[ring > 0].mean() > 0.3
    lamp = np.zeros(fused.shape, np.uint8)
    cv2.circle(lamp, (260, 60), 9, 1, -1)
    assert fused[lamp > 0].mean() > 0.9
    background = (cv2.dilate(disc, np.ones((61, 61))) + cv2.dilate(lamp, np.ones((61, 61)))) == 0
    assert fused[background].mean() - luma[0, 0].numpy()[background].mean() < 0.1, "grey haze over the night"


def test_fresh_weights_add_half_the_thermal_contrast():
    luma, thermal = torch.rand(2, 1, 1, 64, 96)
    expected = (luma + (thermal - thermal.mean()) / 2).clamp(0, 1)
    torch.testing.assert_close(Student()(luma, thermal), expected, atol=1e-6, rtol=0)


def test_the_level_of_the_thermal_image_does_not_matter(shipped):
    luma, thermal = night_scene()
    torch.testing.assert_close(shipped(luma, thermal + 0.1), shipped(luma, thermal), atol=1e-5, rtol=0)


def test_thermal_outside_its_view_does_not_matter(shipped):
    luma, thermal = night_scene()
    weight = torch.ones_like(luma)
    weight[..., 200:] = 0
    other = torch.where(weight > 0, thermal, torch.rand_like(thermal))
    torch.testing.assert_close(
        shipped(luma, other, weight), shipped(luma, thermal, weight), atol=1e-5, rtol=0
    )


def test_a_checkpoint_comes_back_as_it_was_saved(checkpoint):
    student, path = checkpoint
    loaded = load_student(path)
    luma, thermal = torch.rand(2, 1, 1, 64, 64)
    assert loaded.widths == student.widths
    for name, tensor in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    torch.testing.assert_close(loaded(luma, thermal), student(luma, thermal))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(StudentError, match=r"nothing\.safetensors: no such checkpoint"):
        load_student(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint, share):
    path = checkpoint[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StudentError, match="not an intact safetensors file"):
        load_student(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, dump):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "student.safetensors"
    with open(path, "wb") as file:
        dump(Bomb(), file)
    with pytest.raises(StudentError, match="not an intact safetensors file"):
        load_student(path)
    assert not (tmp_path / "exploded").exists()


def rewrite(path, metadata=None, tensors=None):
    """Save the checkpoint again with some metadata or tensors changed; None removes."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = file.metadata() | (metadata or {})
    state = load_file(path) | (tensors or {})
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None},
        path,
        {name: text for name, text in stored.items() if text is not None},
    )


@pytest.mark.parametrize("architecture", ["resnet-50", None])
def test_another_architecture_is_refused(checkpoint, architecture):
    rewrite(checkpoint[1], metadata={"architecture": architecture})
    with pytest.raises(StudentError, match="architecture is"):
        load_student(checkpoint[1])


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"arguments": None}},
        {"metadata": {"arguments": "not json"}},
        {"metadata": {"arguments": "[1, 2]"}},
        {"metadata": {"arguments": '{"depth": 3}'}},
        {"metadata": {"arguments": '{"widths": [8, 8]}'}},
        {"metadata": {"arguments": '{"widths": [8, 8, -8]}'}},
        {"metadata": {"arguments": '{"widths": [8, 8, 16]}'}},
        {"metadata": {"arguments": '{"widths": [8, 8, 1000000000]}'}},
        {"metadata": {"arguments": '{"widths": [0, 8, 16]}'}},
        {"tensors": {"extra": torch.zeros(3)}},
        {"tensors": {"stem.bias": None}},
        {"tensors": {"stem.bias": torch.zeros(9)}},
        {"tensors": {"stem.bias": torch.full((8,), float("nan"))}},
        {"tensors": {"stem.bias": torch.zeros(8, dtype=torch.float16)}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_weights_that_do_not_fit_the_stated_architecture_are_refused(checkpoint, change):
    rewrite(checkpoint[1], **change)
    with pytest.raises(StudentError, match="disagree"):
        load_student(checkpoint[1])


def test_numbers_that_numpy_does_not_know_are_refused(checkpoint):
    rewrite(checkpoint[1], tensors={"stem.bias": torch.zeros(8, dtype=torch.bfloat16)})
    with pytest.raises(StudentError, match="float32"):
        load_student(checkpoint[1])


def test_a_student_error_is_a_fusion_error():
    assert issubclass(StudentError, FusionError)


def test_the_shipped_checkpoint_says_where_it_comes_from():
    from safetensors import safe_open

    with safe_open(DEFAULT_STUDENT, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() >= {"architecture", "arguments", "data", "teacher", "metrics", "licence"}
    assert all(metadata.values())
