"""The diffusion teacher, with a denoiser small enough to be trained and asked in a test."""

import dataclasses
import json
import os
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from fusionproxy_ros.distill import data, teacher, training_loop
from fusionproxy_ros.distill.data import TensorFileError, to_tensor, write_tensors
from fusionproxy_ros.distill.likelihood import Likelihood
from fusionproxy_ros.distill.teacher import (
    SAMPLING_METHODS,
    Denoiser,
    Sampling,
    Teacher,
    load_denoiser,
    save_denoiser,
    training_batch,
)

pytestmark = [
    pytest.mark.slow,
    # Not imported to ask: that takes seconds, also where none of these tests is to run.
    pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not here: pip install diffusers"),
]

WIDTHS = (16, 16, 16)
FAST = Sampling(steps=3, refinements=3)


@pytest.fixture(scope="module")
def denoiser():
    """As training might leave it: not the even mean of a fresh one."""
    torch.manual_seed(0)
    network = Denoiser(WIDTHS).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.05)
    return network


@pytest.fixture
def pair(textures):
    return [np.ascontiguousarray(image[:64, :80]) for image in textures]


@pytest.fixture
def small_crops(monkeypatch):
    monkeypatch.setattr(teacher, "DENOISER_CROP_PX", 64)


@pytest.fixture
def examples(pair_folder):
    return [data.load(file) for file in data.find_pairs(pair_folder)[:3]]


# the denoiser


@pytest.mark.parametrize("kept", (0.0, 0.3, 1.0))
def test_a_fresh_denoiser_answers_the_mean_of_what_it_sees(kept):
    noisy, first, second = torch.randn(3, 2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    share = torch.full((2,), kept)
    with torch.inference_mode():
        answer = Denoiser(WIDTHS)(noisy, first, second, share)
    torch.testing.assert_close(answer, (kept**0.5 * noisy + first + second) / 3)


def test_a_denoisers_answer_depends_on_the_noise_level_and_both_views(denoiser):
    noisy, first, second = torch.rand(3, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = [
            denoiser(*arguments, torch.tensor([kept]))
            for *arguments, kept in (
                (noisy, first, second, 0.5),
                (noisy, first, second, 0.9),
                (noisy, -first, second, 0.5),
                (noisy, first, -second, 0.5),
                (-noisy, first, second, 0.5),
            )
        ]
    assert all(not torch.allclose(answers[0], other, atol=1e-3) for other in answers[1:])


def test_noise_levels_go_from_nearly_none_to_nothing_but_noise():
    kept = teacher.noise_schedule().alphas_cumprod
    assert len(kept) == teacher.LEVELS and (kept.diff() < 0).all()
    assert kept[0] > 0.99 and kept[-1] < 1e-4
    for steps in (1, 2, 8):
        schedule = teacher.noise_schedule()
        schedule.set_timesteps(steps)
        assert schedule.timesteps[0] == teacher.LEVELS - 1, "sampling begins with noise alone"


# training


def test_training_pictures_come_with_two_views_or_blind(examples, small_crops):
    blind = 0
    for seed in range(10):
        picture, first, second = training_batch(examples, 8, np.random.default_rng(seed))
        for image in (picture, first, second):
            assert (
                image.shape == (8, 1, teacher.DENOISER_CROP_PX, teacher.DENOISER_CROP_PX)
                and image.dtype == torch.float32
            )
            assert image.min() >= -1 and image.max() <= 1
        assert picture.std((1, 2, 3)).min() > 0
        for view, other in zip(first, second, strict=True):
            nothing = view.abs().max() == 0
            assert nothing == (other.abs().max() == 0)
            blind += int(nothing)
        again = training_batch(examples, 8, np.random.default_rng(seed))
        assert all(
            torch.equal(one, other) for one, other in zip((picture, first, second), again, strict=True)
        )
    assert blind / 80 == pytest.approx(teacher.BLIND_SHARE, abs=0.15)


def error_of(denoiser, examples):
    """Mean squared error on pictures of a fixed draw, at fixed noise."""
    picture, first, second = training_batch(examples, 8, np.random.default_rng(99))
    kept = torch.linspace(0.05, 0.95, 8)
    signal = kept[:, None, None, None]
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answer = denoiser(signal.sqrt() * picture + (1 - signal).sqrt() * noise, first, second, kept)
    return (answer - picture).square().mean().item()


def test_training_lowers_the_error_and_starts_from_its_seed(examples, small_crops, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "WARM_UP_STEPS", 2)
    monkeypatch.setattr(teacher, "DENOISER_LEARNING_RATE", 4e-3)
    trained = teacher.train_denoiser(examples, 30, 4, WIDTHS, 0, tmp_path / "a.state")
    assert error_of(trained, examples) < 0.95 * error_of(Denoiser(WIDTHS), examples)
    few = [
        teacher.train_denoiser(examples, 1, 2, WIDTHS, seed, tmp_path / f"{i}.state")
        for i, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in few)
    assert torch.equal(first, again) and not torch.equal(first, other)


# sampling


def test_samples_are_pictures_of_the_sources_size(denoiser, textures):
    for height, width in ((45, 61), (32, 32), (64, 80), (33, 47)):
        luma, thermal = (image[:height, :width] for image in textures)  # not contiguous, as crops are
        samples = Teacher(denoiser, FAST).sample(luma, thermal, [0, 1])
        assert samples.shape == (2, height, width) and samples.dtype == np.float32
        assert samples.min() >= 0 and samples.max() <= 1


class Oracle(torch.nn.Module):
    """A denoiser that answers the same picture each time, and remembers what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, noisy, first, second, kept):
        self.asked.append((noisy.clone(), first, second, kept))
        return self.answer.expand_as(noisy)


def test_without_refinement_a_sample_is_what_the_denoiser_proposed(pair):
    answer = torch.linspace(-1, 1, 80).expand(1, 1, 64, 80)
    (sample,) = Teacher(Oracle(answer), SAMPLING_METHODS["restoration"]).sample(*pair, [0])
    np.testing.assert_allclose(sample, (answer[0, 0] + 1) / 2, atol=1e-6)


def test_the_denoiser_sees_both_sources_and_the_picture_under_the_noise_that_is_stated(pair):
    answer = torch.linspace(-0.9, 0.9, 80).expand(1, 1, 64, 80)
    oracle = Oracle(answer)
    Teacher(oracle, Sampling(steps=5, refinements=0)).sample(*pair, [0])
    assert len(oracle.asked) == 5
    noises = []
    for noisy, first, second, kept in oracle.asked:
        for view, source in zip((first, second), pair, strict=True):
            np.testing.assert_allclose(view[0, 0], source / 127.5 - 1, atol=1e-5)
        noises.append((noisy - kept.sqrt() * answer) / (1 - kept).sqrt())
    shares = torch.stack([kept[0] for *_, kept in oracle.asked])
    assert shares[0] < 1e-4 and (shares.diff() > 0).all(), "from noise alone to less and less"
    for noise in noises:
        assert noise.std().item() == pytest.approx(1, abs=0.05)
        assert noise.mean().item() == pytest.approx(0, abs=0.05)
    renewed = np.corrcoef(torch.stack(noises).flatten(1))
    assert (np.abs(renewed[np.triu_indices(5, 1)]) < 0.95).all(), (
        "noise is renewed, so samples can change course"
    )


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_each_method_samples(denoiser, pair, method):
    sampling = dataclasses.replace(
        SAMPLING_METHODS[method], steps=3, refinements=min(3, SAMPLING_METHODS[method].refinements)
    )
    samples = Teacher(denoiser, sampling).sample(*pair, [0])
    assert np.isfinite(samples).all() and np.ptp(samples) > 0.1


def test_in_the_dark_a_sample_shows_rgb_and_what_is_warm_on_it():
    luma = np.full((64, 80), 12, np.uint8)
    thermal = np.full((64, 80), 90, np.uint8)
    thermal[24:48, 40:48] = 220
    (sample,) = Teacher(Oracle(torch.zeros(1, 1, 64, 80)), SAMPLING_METHODS["restoration"]).sample(
        luma, thermal, [0]
    )
    assert np.abs(255 * sample - luma)[:, :32].max() < 1 and (255 * sample[24:48, 40:48]).min() > 200


def test_the_same_seed_gives_the_same_sample_bit_for_bit_and_another_seed_another(denoiser, pair):
    ask = Teacher(denoiser, FAST).sample
    first, other = ask(*pair, [(0, 7), (0, 8)])
    assert (first == ask(*pair, [(0, 7), (0, 8)])[0]).all()
    assert (first == Teacher(denoiser, FAST).sample(*pair, [(0, 7), (0, 9)])[0]).all()
    assert np.abs(first - other).mean() > 1e-3


def test_a_sample_does_not_depend_on_its_companions(denoiser, pair):
    ask = Teacher(denoiser, FAST).sample
    together = ask(*pair, [3, 4, 5])
    for index, seed in enumerate((3, 4, 5)):
        np.testing.assert_allclose(ask(*pair, [seed])[0], together[index], atol=1e-3)


def test_sampling_leaves_the_sources_and_the_global_generators_alone(denoiser, pair):
    before = [image.copy() for image in pair], torch.get_rng_state(), np.random.get_state()[1].copy()
    Teacher(denoiser, FAST).sample(*pair, [0])
    assert all((image == old).all() for image, old in zip(pair, before[0], strict=True))
    assert torch.equal(torch.get_rng_state(), before[1]) and (np.random.get_state()[1] == before[2]).all()


def test_refinement_leads_to_a_likelier_picture_than_restoration_alone(denoiser, pair):
    energy = Likelihood(*(to_tensor(image).expand(3, -1, -1, -1) for image in pair)).energy
    restored, refined = (
        Teacher(denoiser, Sampling(steps=3, refinements=count)).sample(*pair, [0, 1, 2]) for count in (0, 6)
    )
    before, after = (energy(torch.from_numpy(samples)[:, None]) for samples in (restored, refined))
    assert (after < 0.9 * before).all()


def test_a_strong_prior_holds_the_picture_to_what_the_denoiser_proposed(denoiser, pair):
    def sample(**sampling):
        return Teacher(denoiser, Sampling(steps=3, **sampling)).sample(*pair, [0])

    restored = sample(refinements=0)
    free, held = (np.abs(sample(refinements=10, prior=prior) - restored).mean() for prior in (0, 1e6))
    assert held < 0.3 * free


def test_an_unconditional_teacher_sees_the_sources_through_the_likelihood_alone(denoiser, pair):
    blind = Teacher(denoiser, Sampling(steps=3, refinements=0, conditional=False))
    assert (blind.sample(*pair, [0]) == blind.sample(*(255 - image for image in pair), [0])).all()
    guided = Teacher(denoiser, Sampling(steps=3, refinements=3, conditional=False))
    assert (guided.sample(*pair, [0]) != guided.sample(*(255 - image for image in pair), [0])).any()


# checkpoints


def test_a_denoiser_survives_the_way_to_disk_and_back(denoiser, tmp_path, pair):
    save_denoiser(denoiser, tmp_path / "new" / "teacher.safetensors", {"data": "none"})
    loaded = load_denoiser(tmp_path / "new" / "teacher.safetensors")
    assert loaded.widths == WIDTHS
    for name, tensor in denoiser.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    samples = [Teacher(network, FAST).sample(*pair, [0]) for network in (denoiser, loaded)]
    np.testing.assert_allclose(*samples, atol=1e-3)


@pytest.fixture
def checkpoint(denoiser, tmp_path):
    save_denoiser(denoiser, tmp_path / "teacher.safetensors", {})
    return tmp_path / "teacher.safetensors"


@pytest.mark.parametrize("kept", (0, 7, 0.01, 0.5, 0.999))
def test_a_truncated_checkpoint_is_refused(checkpoint, kept):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(TensorFileError, match=f"{checkpoint}: not an intact safetensors file"):
        load_denoiser(checkpoint)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(TensorFileError, match=r"absent\.safetensors"):
        load_denoiser(tmp_path / "absent.safetensors")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickled_checkpoint_is_refused_and_not_executed(tmp_path):
    (tmp_path / "teacher.safetensors").write_bytes(pickle.dumps(Bomb(str(tmp_path / "executed"))))
    with pytest.raises(TensorFileError, match="not an intact safetensors file"):
        load_denoiser(tmp_path / "teacher.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("stated", ("local-affine-1", None))
def test_a_checkpoint_of_another_architecture_is_refused_with_its_name(denoiser, tmp_path, stated):
    path = tmp_path / "student.safetensors"
    write_tensors(path, denoiser.state_dict(), {"architecture": stated} if stated else {})
    with pytest.raises(
        TensorFileError,
        match=f"architecture is {stated or 'none stated'}, not {teacher.DENOISER_ARCHITECTURE}",
    ):
        load_denoiser(path)


@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps({"widths": [16, 16, 32]}),
        json.dumps({"widths": [16, 16]}),
        json.dumps({"widths": [17, 16, 16]}),
        json.dumps({"widths": []}),
        json.dumps({"widths": ["16", "16", "16"]}),
        json.dumps({"widths": 16}),
        json.dumps({"depth": 16}),
        json.dumps([16, 16, 16]),
        "{",
        "null",
        None,
    ],
)
def test_weights_that_are_not_of_the_stated_widths_are_refused(denoiser, tmp_path, arguments):
    path = tmp_path / "teacher.safetensors"
    stated = {} if arguments is None else {"arguments": arguments}
    write_tensors(path, denoiser.state_dict(), {"architecture": teacher.DENOISER_ARCHITECTURE} | stated)
    with pytest.raises(TensorFileError, match="weights and stated architecture disagree"):
        load_denoiser(path)


# the command


def test_the_command_trains_on_the_training_side_of_the_split_and_writes_a_teacher(
    pair_folder, small_crops, tmp_path
):
    out = tmp_path / "out" / "teacher.safetensors"
    arguments = ["--data", pair_folder, "--out", out, "--steps", 2, "--batch", 2, "--widths", *WIDTHS]
    teacher.main([str(a) for a in arguments])
    assert load_denoiser(out).widths == WIDTHS
    training, held_out = data.split(data.find_pairs(pair_folder))
    _, metadata = teacher.read_tensors(out)
    assert metadata["data"].startswith(f"{len(training)} pairs") and held_out
    assert "step 2 loss" in out.with_suffix(".log").read_text()
