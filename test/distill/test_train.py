"""The training loop (resumable, on one process or many), tensor files, and what the student is trained on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fusionproxy_ros.distill import train, training_loop
from fusionproxy_ros.distill.backbones import Backbone, load_backbone
from fusionproxy_ros.distill.data import (
    DataError,
    TensorFileError,
    find_pairs,
    load,
    read_tensors,
    write_tensors,
)
from fusionproxy_ros.distill.ensemble import summarise
from fusionproxy_ros.distill.losses import identity_loss
from fusionproxy_ros.distill.train import (
    TRAINING_METHODS,
    Batch,
    answered_by,
    batch_of,
    draw_ensembles,
    loss_of_batch,
)
from fusionproxy_ros.fusion.network import Student, load_student, save_student
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT
from fusionproxy_ros.metrics.fusion_metrics import RANKED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WIDTHS = (8, 8, 8)
SIZE_PX = 64
SAVE_EVERY = 4
STEPS = 12


@pytest.fixture(autouse=True)
def one_thread_on_the_cpu(monkeypatch):
    """As in the processes that are started here: sums in another order differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    torch.set_num_threads(threads)


# tensor files


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from([np.float16, np.float32, np.int64, np.uint8]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
)
def test_tensors_survive_the_way_to_disk_and_back(tmp_path_factory, arrays_by_name, metadata):
    path = tmp_path_factory.getbasetemp() / "tensors" / "any.safetensors"
    tensors = {name: torch.from_numpy(array) for name, array in arrays_by_name.items()}
    write_tensors(path, tensors, metadata)
    found, described = read_tensors(path)
    assert described == metadata and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_views_of_tensors_and_what_needs_gradients_are_written_too(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    write_tensors(tmp_path / "a", {"turned": whole.T, "part": whole[:, 1]}, {})
    found, _ = read_tensors(tmp_path / "a")
    assert torch.equal(found["turned"], whole.T) and torch.equal(found["part"], whole[:, 1])


def write_student(path, tensors, metadata):
    student = Student((8, 8, 8))
    torch.nn.init.constant_(student.head.bias, tensors["x"].mean().item())
    save_student(student, path, metadata)


@pytest.mark.parametrize("write, value", [(write_tensors, "x"), (write_student, "head.bias")])
@pytest.mark.parametrize("dies_in", ["write_bytes", "replace"])
def test_a_writer_that_dies_leaves_what_was_there(tmp_path, monkeypatch, write, value, dies_in):
    path = tmp_path / "a.safetensors"
    write(path, {"x": torch.ones(100)}, {})

    def half_written(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            *((Path, "write_bytes", half_written) if dies_in == "write_bytes" else (os, "replace", killed))
        )
        with pytest.raises(KeyboardInterrupt):
            write(path, {"x": torch.zeros(100)}, {})
    assert (read_tensors(path)[0][value] == 1).all()
    write(path, {"x": torch.zeros(100)}, {})
    assert (read_tensors(path)[0][value] == 0).all()


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = tmp_path / "whole"
    write_tensors(whole, {"x": torch.arange(8.0), "y": torch.zeros(3, dtype=torch.uint8)}, {"a": "b"})
    content = whole.read_bytes()
    for length in range(len(content)):
        whole.write_bytes(content[:length])
        with pytest.raises(TensorFileError, match=f"{whole}: not an intact safetensors file"):
            read_tensors(whole)
    with pytest.raises(TensorFileError, match="absent: not an intact"):
        read_tensors(tmp_path / "absent")


# the loop


class Killed(Exception):
    pass


def regression(killed_at=None):
    """A loss to fit, which raises Killed when asked for the killed_at-th time."""
    asked = 0

    def loss_of(model, rng, device):
        nonlocal asked
        if asked == killed_at:
            raise Killed
        asked += 1
        x = torch.from_numpy(rng.standard_normal((8, 3), np.float32))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return loss_of


def fit(state, loss_of=None, steps=STEPS, seed=3, learning_rate=0.05, **given):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    given = {"kind": "test"} | given
    return training_loop.fit(model, loss_of or regression(), steps, seed, learning_rate, state, given)


@pytest.fixture
def saved_often(monkeypatch):
    monkeypatch.setattr(training_loop, "SAVE_EVERY", SAVE_EVERY)


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kills", [(2,), (SAVE_EVERY,), (SAVE_EVERY + 1,), (STEPS - 1,), (5, 0, 3, 5)])
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, saved_often, kills):
    """kills: the steps done in each run before the last, counted from where it resumed."""
    unbroken = fit(tmp_path / "unbroken.state")
    for steps in kills:
        with pytest.raises(Killed):
            fit(tmp_path / "broken.state", regression(killed_at=steps))
    assert_same_weights(unbroken, fit(tmp_path / "broken.state"))
    assert (tmp_path / "broken.log").read_text() == (tmp_path / "unbroken.log").read_text()


def test_a_resumed_run_does_not_repeat_what_was_saved(tmp_path, saved_often):
    with pytest.raises(Killed):
        fit(tmp_path / "a.state", regression(killed_at=SAVE_EVERY + 2))
    with pytest.raises(Killed):  # had it begun anew, it would not be finished before it is asked so often
        fit(tmp_path / "a.state", regression(killed_at=STEPS - SAVE_EVERY - 1))
    fit(tmp_path / "a.state", regression(killed_at=STEPS - SAVE_EVERY))


def test_a_finished_run_is_not_trained_further(tmp_path):
    finished = fit(tmp_path / "a.state")
    assert_same_weights(finished, fit(tmp_path / "a.state", regression(killed_at=0)))


def test_batches_come_from_seed_and_step_alone(tmp_path, saved_often):
    seen = []

    def loss_of(model, rng, device):
        seen.append(rng.random())
        return model(torch.ones(1, 3)).square().mean()

    fit(tmp_path / "a.state", loss_of)
    first = list(seen)
    fit(tmp_path / "b.state", loss_of)
    assert seen == first * 2 and len(set(first)) == STEPS
    fit(tmp_path / "c.state", loss_of, seed=4)
    assert not set(seen[-STEPS:]) & set(first)


@pytest.mark.parametrize(
    "other", [{"steps": 13}, {"seed": 4}, {"learning_rate": 0.1}, {"kind": "another"}, {"batch": 7}]
)
def test_a_state_of_other_settings_is_refused_and_both_are_named(tmp_path, other):
    state = tmp_path / "a.state"
    fit(state)
    (name, value), before = next(iter(other.items())), state.read_bytes()
    with pytest.raises(TensorFileError, match=f"{state} is of a run with .* this one has .*{name}.*{value}"):
        fit(state, **other)
    assert state.read_bytes() == before


def test_a_truncated_state_is_refused(tmp_path):
    state = tmp_path / "a.state"
    fit(state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(TensorFileError, match=f"{state}: not an intact safetensors file"):
        fit(state)


def test_fitting_lowers_the_loss_and_logs_it(tmp_path, saved_often):
    fit(tmp_path / "a.state", steps=80)
    settings_line, *lines = (tmp_path / "a.log").read_text().splitlines()
    assert '"kind": "test"' in settings_line and '"seed": 3' in settings_line
    steps, losses = zip(*((int(line.split()[1]), float(line.split()[3])) for line in lines), strict=True)
    assert steps == tuple(range(SAVE_EVERY, 81, SAVE_EVERY))
    assert losses[-1] < 0.8 * losses[0]


def test_the_average_lies_between_the_weights_it_averages(tmp_path):
    """Weights that grow by the same amount in each step: their average lags behind, but follows."""

    class Growing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

    averaged = training_loop.fit(
        Growing(), lambda m, rng, device: -m.weight, 200, 0, 0.01, tmp_path / "a.state", {}
    )
    tensors, _ = read_tensors(tmp_path / "a.state")
    last = tensors["model.weight"]
    assert 0.3 * last < averaged.weight < last
    assert torch.equal(tensors["average.module.weight"], averaged.weight)


# batches of ensembles


def ensemble_of(index, backbone=None, size_px=SIZE_PX, samples=3):
    """Smooth sources, and samples between them that differ."""
    rng = np.random.default_rng(index)
    luma, thermal, noise = (
        F.interpolate(
            torch.from_numpy(rng.random((count, 1, 8, 8), np.float32)), (size_px, size_px), mode="bilinear"
        )[:, 0].numpy()
        for count in (1, 1, samples)
    )
    pictures = np.clip(0.6 * luma + 0.4 * thermal + 0.1 * (noise - 0.5), 0, 1).astype(np.float32)
    grey = [np.rint(255 * image[0]).astype(np.uint8) for image in (luma, thermal)]
    return summarise(f"{index}", *grey, pictures, backbone)


class Quarter(Backbone):
    """Features at a quarter of the picture's size, linear in it."""

    def __init__(self):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.randn(5, 1, 4, 4), requires_grad=False)

    def forward(self, luma):
        return {"quarter": F.conv2d(luma, self.kernel, stride=4)}


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Quarter()


@pytest.fixture(scope="module")
def ensembles(backbone):
    return [ensemble_of(index, backbone) for index in range(4)]


def draw_batch(ensembles, rng):
    return batch_of(draw_ensembles(ensembles, rng), rng)


def drawn(ensembles, seed, **changed):
    """A batch as it is drawn, but without noise and with what is given."""
    batch = draw_batch(ensembles, np.random.default_rng(seed))
    return dataclasses.replace(batch, **{"noise": torch.zeros_like(batch.noise)} | changed)


@pytest.fixture
def taught_alone(monkeypatch):
    """No share of the likelihood: what the teacher says is all there is."""
    monkeypatch.setattr(train, "LIKELIHOOD_WEIGHT", 0)


def examples_of(batch, of):
    """The batch of these of its examples alone."""

    def pick(value):
        return {k: t[of] for k, t in value.items()} if isinstance(value, dict) else value[of]

    return Batch(**{field.name: pick(getattr(batch, field.name)) for field in dataclasses.fields(batch)})


def answering(picture):
    """A student that gives this picture, whatever it sees."""
    return lambda luma, thermal, trust: picture


def test_batches_are_ensembles_with_noise_dead_and_partial_thermal(ensembles):
    dead, partial, batches = 0, 0, 60
    means = torch.stack([one.mean.float() for one in ensembles])
    lumas = torch.stack([one.luma.float() / 255 for one in ensembles])
    for seed in range(batches):
        batch = draw_batch(ensembles, np.random.default_rng(seed))
        for image in (batch.luma, batch.thermal, batch.trust, batch.mean, batch.variance):
            assert image.shape == (train.BATCH, 1, SIZE_PX, SIZE_PX) and image.dtype == torch.float32
            assert image.min() >= 0 and image.max() <= 1
        for index in range(train.BATCH):
            (origin,) = (k for k in range(4) if torch.equal(means[k], batch.mean[index, 0]))
            assert torch.equal(batch.luma[index, 0], lumas[origin]), "the answer belongs to the sources"
            assert not batch.dead[index] or batch.thermal[index].std() < 1e-6
            assert batch.noise[index].std() < 1.5 * train.LUMA_NOISE
            assert batch.trust[index].mean() > 0.3
        whole = batch.trust.flatten(1).all(1)
        assert whole[batch.dead].all()
        dead, partial = dead + int(batch.dead.sum()), partial + int((~whole).sum())
        again = draw_batch(ensembles, np.random.default_rng(seed))
        assert torch.equal(batch.luma, again.luma) and torch.equal(batch.thermal, again.thermal)
    count = batches * train.BATCH
    assert dead / count == pytest.approx(train.DEAD_SHARE, abs=0.08)
    assert partial / count == pytest.approx(train.PARTIAL_SHARE * (1 - train.DEAD_SHARE), abs=0.1)


def test_drawing_leaves_the_ensembles_alone(ensembles):
    before = [(one.luma.clone(), one.thermal.clone(), one.mean.clone()) for one in ensembles]
    for seed in range(5):
        draw_batch(ensembles, np.random.default_rng(seed))
    for one, old in zip(ensembles, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip((one.luma, one.thermal, one.mean), old, strict=True))


def test_an_elder_student_answers_crops_that_no_teacher_has_seen(folder):
    elder = load_student(DEFAULT_STUDENT)
    examples = [load(pair) for pair in find_pairs(folder.parent / "pairs")]
    fresh, other, again = (answered_by(elder, examples, np.random.default_rng(seed)) for seed in (0, 1, 0))
    assert len(fresh) == train.BATCH
    for one, same in zip(fresh, again, strict=True):
        luma, thermal = (plane[None, None].float() / 255 for plane in (one.luma, one.thermal))
        assert torch.equal(elder(luma, thermal)[0, 0], one.mean) and not one.variance.any()
        assert torch.equal(one.luma, same.luma) and torch.equal(one.mean, same.mean)
    assert not any(torch.equal(one.luma, two.luma) for one in fresh for two in other)
    batch = batch_of(fresh, np.random.default_rng(0))
    assert loss_of_batch(elder, batch, TRAINING_METHODS["full"], None).isfinite(), "without features"


# the loss


def test_the_student_sees_noise_that_the_answer_has_not(ensembles):
    batch = draw_batch(ensembles, np.random.default_rng(0))
    seen = []

    def student(luma, thermal, trust):
        seen.extend([luma, thermal])
        return luma

    batch = dataclasses.replace(batch, dead=torch.ones(train.BATCH, dtype=torch.bool))
    assert loss_of_batch(student, batch, TRAINING_METHODS["mean-regression"], None) == 0, (
        "RGB's own noise stays"
    )
    for image, clean, noise in zip(seen, (batch.luma, batch.thermal), batch.noise.split(1, 1), strict=True):
        assert torch.equal(image, (clean + noise).clamp(0, 1)) and not torch.equal(image, clean)


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_dead_thermal_asks_for_luma_alone(ensembles, backbone, method):
    batch = drawn(ensembles, 0, dead=torch.ones(train.BATCH, dtype=torch.bool))
    for picture in (batch.luma, batch.mean):
        loss = loss_of_batch(answering(picture), batch, TRAINING_METHODS[method], backbone)
        expected = train.IDENTITY_WEIGHT * identity_loss(picture, batch.luma)
        torch.testing.assert_close(loss, expected)
    assert loss_of_batch(answering(batch.luma), batch, TRAINING_METHODS[method], backbone) == 0


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_an_example_counts_the_same_whether_its_companion_is_dead_or_not(ensembles, backbone, method):
    dead = torch.arange(train.BATCH) == 0
    batch = drawn(ensembles, 0, dead=dead)
    picture = torch.rand(batch.luma.shape, generator=torch.Generator().manual_seed(0))
    together, *alone = (
        loss_of_batch(answering(picture[of]), examples_of(batch, of), TRAINING_METHODS[method], backbone)
        for of in (slice(0, 2), slice(0, 1), slice(1, 2))
    )
    torch.testing.assert_close(together, sum(alone) / 2)


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_what_is_not_trusted_does_not_reach_the_loss(ensembles, backbone, method):
    trust = torch.ones(train.BATCH, 1, SIZE_PX, SIZE_PX)
    trust[..., :16] = 0
    batch = drawn(ensembles, 0, dead=torch.zeros(train.BATCH, dtype=torch.bool), trust=trust)
    picture = (batch.luma + batch.thermal) / 2

    def loss(batch):
        return loss_of_batch(answering(picture), batch, TRAINING_METHODS[method], backbone)

    def changed(images, where):
        return torch.where(trust == where, 1 - images, images)

    features = {layer: f.clone() for layer, f in batch.feature_mean.items()}
    features["quarter"][..., :4] += 7
    unseen = dataclasses.replace(
        batch, mean=changed(batch.mean, 0), thermal=changed(batch.thermal, 0), feature_mean=features
    )
    assert loss(unseen) == loss(batch)
    seen = dataclasses.replace(batch, mean=changed(batch.mean, 1), thermal=changed(batch.thermal, 1))
    assert abs(loss(seen) - loss(batch)) > 1e-3


def test_no_gradient_of_the_pixel_loss_falls_on_what_is_not_trusted(ensembles, taught_alone):
    batch = drawn(ensembles, 3, dead=torch.zeros(train.BATCH, dtype=torch.bool))
    batch.trust[0, :, :20] = 0
    picture = torch.full_like(batch.luma, 0.111).requires_grad_()
    loss_of_batch(answering(picture), batch, TRAINING_METHODS["mean-regression"], None).backward()
    assert (picture.grad[batch.trust == 0] == 0).all()
    assert (picture.grad[batch.trust == 1] != 0).all()


def test_the_ablations_lack_what_their_names_say(ensembles, backbone, taught_alone):
    """On constant variances all that learn from features agree; pixel and feature weights matter where they vary."""
    batch = drawn(ensembles, 0, dead=torch.zeros(train.BATCH, dtype=torch.bool))
    picture = torch.rand(batch.luma.shape, generator=torch.Generator().manual_seed(0))

    def losses(**changed):
        changed = dataclasses.replace(batch, **changed)
        return {
            name: loss_of_batch(answering(picture), changed, TRAINING_METHODS[name], backbone).item()
            for name in TRAINING_METHODS
            if name != "unsupervised"
        }

    constant_pixels = torch.full_like(batch.variance, 0.01)
    constant_features = {layer: torch.full_like(v, 0.1) for layer, v in batch.feature_variance.items()}
    found = losses(variance=constant_pixels, feature_variance=constant_features)
    assert found["full"] == pytest.approx(found["no-pixel-weighting"], rel=1e-5)
    assert found["full"] == pytest.approx(found["no-feature-routing"], rel=1e-5)
    assert found["full"] > found["mean-regression"]
    found = losses(feature_variance=constant_features)
    assert found["full"] == pytest.approx(found["no-feature-routing"], rel=1e-5)
    assert found["full"] != pytest.approx(found["no-pixel-weighting"], rel=1e-3)
    found = losses(variance=constant_pixels)
    assert found["full"] == pytest.approx(found["no-pixel-weighting"], rel=1e-5)
    assert found["full"] != pytest.approx(found["no-feature-routing"], rel=1e-4)


def test_the_teachers_own_mean_is_the_best_answer(ensembles, taught_alone):
    batch = drawn(ensembles, 0, dead=torch.zeros(train.BATCH, dtype=torch.bool))
    assert loss_of_batch(answering(batch.mean), batch, TRAINING_METHODS["mean-regression"], None) < 1e-6
    off = loss_of_batch(answering(batch.mean + 0.1), batch, TRAINING_METHODS["mean-regression"], None)
    assert off.item() == pytest.approx(0.1 * batch.trust.mean().item(), rel=1e-4)


# training


@pytest.fixture
def folder(tmp_path):
    """Tiny ensembles on disk, without features; and beside them the pairs on which the student is measured."""
    for index in range(4):
        ensemble_of(index, size_px=32).save(tmp_path / "ensembles" / f"{index}.safetensors")
        for kind in ("rgb", "thermal"):
            path = tmp_path / "pairs" / "m3svd" / kind / f"{'abcd'[index]}_0000.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng((index, len(kind))).integers(0, 256, (40, 48), np.uint8)
            cv2.imwrite(str(path), cv2.blur(picture, (5, 5)))
    return tmp_path / "ensembles"


@pytest.fixture(scope="module")
def featured():
    """Ensembles with EfficientNet's features."""
    pytest.importorskip("efficientnet_lite_pytorch")
    network = load_backbone("efficientnet-lite0")
    return [ensemble_of(index, network) for index in range(4)]


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_every_method_takes_a_step(featured, tmp_path, method):
    trained = train.train_student(featured, method, 2, 0, tmp_path / "a.state", WIDTHS)
    torch.manual_seed(0)
    fresh = Student(WIDTHS)
    assert weights_of(trained).isfinite().all()
    assert all(
        not torch.equal(a, b) for a, b in zip(trained.head.parameters(), fresh.head.parameters(), strict=True)
    )


@pytest.mark.parametrize("method", ["full", "unsupervised"])
def test_training_lowers_its_loss(featured, tmp_path, monkeypatch, method):
    monkeypatch.setattr(training_loop, "WARM_UP_STEPS", 5)
    network = load_backbone("efficientnet-lite0")
    trained = train.train_student(featured, method, 25, 0, tmp_path / "a.state", WIDTHS)
    torch.manual_seed(0)
    batches = [drawn(featured, seed) for seed in range(100, 105)]
    with torch.inference_mode():
        before, after = (
            sum(loss_of_batch(student, batch, TRAINING_METHODS[method], network).item() for batch in batches)
            for student in (Student(WIDTHS), trained)
        )
    assert after < 0.98 * before


def arguments(folder, out, steps, *more):
    """Of the command, for the method that needs no backbone."""
    options = ("--ensembles", folder, "--out", out, "--steps", steps, "--method", "mean-regression")
    data = folder.parent / "pairs"
    return [str(a) for a in (*options, "--data", data, "--widths", *WIDTHS, *more)]


def test_the_command_writes_a_checkpoint_that_the_node_loads_and_says_what_it_is(folder, tmp_path):
    out = tmp_path / "new" / "student.safetensors"
    train.main(arguments(folder, out, 3))
    student = load_student(out)
    assert student.widths == WIDTHS
    luma, thermal = torch.rand(2, 1, 1, 48, 64)
    assert student(luma, thermal).isfinite().all()
    _, metadata = read_tensors(out)
    assert metadata["method"] == "mean-regression" and metadata["steps"] == "3" and metadata["licence"]
    assert metadata["data"] == "4 crops of 4 pairs"
    measured, _, pairs = metadata["metrics"].partition("} on ")
    assert json.loads(measured + "}").keys() == set(RANKED) and pairs == "1 held-out pairs"
    assert "step 3 loss" in out.with_suffix(".log").read_text()


def test_the_command_learns_from_an_elder_student_and_says_so(folder, tmp_path):
    out = tmp_path / "student.safetensors"
    train.main(arguments(folder, out, 3, "--elder", DEFAULT_STUDENT))
    assert read_tensors(out)[1]["data"].endswith("and fresh ones of 3 pairs that fusionproxy answers")
    with pytest.raises(TensorFileError, match="elder"):
        train.main(arguments(folder, out, 3))
    train.main(arguments(folder, tmp_path / "alone.safetensors", 3))
    students = [load_student(path) for path in (out, tmp_path / "alone.safetensors")]
    assert not torch.equal(*map(weights_of, students))


def test_the_same_seed_gives_the_same_student_and_another_another(folder, tmp_path):
    students = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.main(arguments(folder, tmp_path / f"{name}.safetensors", 3, "--seed", seed))
        students.append(weights_of(load_student(tmp_path / f"{name}.safetensors")))
    assert torch.equal(students[0], students[1]) and not torch.equal(students[0], students[2])


def test_a_folder_without_ensembles_is_named(folder, tmp_path):
    with pytest.raises(TensorFileError, match=f"{tmp_path}: no ensembles"):
        train.main([*arguments(folder, tmp_path / "a.safetensors", 3), "--ensembles", str(tmp_path)])


def test_missing_pairs_are_named_before_the_training_and_not_after(folder, tmp_path):
    shutil.rmtree(folder.parent / "pairs")
    with pytest.raises(DataError, match="no pairs below"):
        train.main(arguments(folder, tmp_path / "a.safetensors", 3))
    assert not (tmp_path / "a.state").exists()


# processes


@pytest.fixture
def start(tmp_path):
    """Starts `python ...` where diffusers cannot be imported: only the teacher needs it."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "diffusers.py").write_text("raise ImportError('diffusers is for the teacher')")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'absent'}",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def start(*command):
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def output_of(process):
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    return output


DIES = """
import os, signal
from fusionproxy_ros.distill import train, training_loop

training_loop.SAVE_EVERY, drawn, batch_of = {save_every}, [], train.batch_of

def draw_or_die(*arguments):
    drawn.append(1)
    if len(drawn) > {lives_for}:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch_of(*arguments)

train.batch_of = draw_or_die
train.main({arguments})
"""


def test_a_process_killed_in_training_goes_on_as_if_nothing_had_happened(folder, tmp_path, start, capsys):
    out, state = tmp_path / "broken.safetensors", tmp_path / "broken.state"
    command = arguments(folder, out, STEPS)
    code = DIES.format(save_every=SAVE_EVERY, lives_for=SAVE_EVERY + 2, arguments=command)
    killed = start("-c", code)
    output, _ = killed.communicate(timeout=150)
    assert killed.returncode == -signal.SIGKILL, output
    assert int(read_tensors(state)[1]["steps_done"]) == SAVE_EVERY and not out.exists()

    train.main(command)
    progress = capsys.readouterr().err
    assert f"| {SAVE_EVERY}/{STEPS}" in progress and f"| 0/{STEPS}" not in progress, "it goes on, not anew"
    train.main(arguments(folder, tmp_path / "unbroken.safetensors", STEPS))
    assert_same_weights(load_student(out), load_student(tmp_path / "unbroken.safetensors"))


def test_two_processes_train_one_student_under_torchrun(folder, tmp_path, start):
    out = tmp_path / "two.safetensors"
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"
    output_of(start(*torchrun, "fusionproxy_ros.distill.train", *arguments(folder, out, 4)))
    weights = weights_of(load_student(out))
    assert weights.isfinite().all()
    train.main(arguments(folder, tmp_path / "one.safetensors", 4))
    assert not torch.equal(weights, weights_of(load_student(tmp_path / "one.safetensors"))), (
        "both processes count"
    )
    with pytest.raises(TensorFileError, match=r'"processes": 2.*"processes": 1'):
        train.main(arguments(folder, out, 4))
