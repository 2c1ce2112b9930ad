"""What is kept of a teacher's samples, and the command that asks for them."""

import shutil

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusionproxy_ros.core.pictures import spread
from fusionproxy_ros.distill import data, ensemble
from fusionproxy_ros.distill.backbones import Backbone
from fusionproxy_ros.distill.data import TensorFileError, write_tensors
from fusionproxy_ros.distill.ensemble import load_ensemble, load_ensembles, summarise
from fusionproxy_ros.distill.teacher import SAMPLING_METHODS, Denoiser, Sampling, save_denoiser

pytestmark = pytest.mark.slow

SIZE = (32, 48)
CROP_PX = 64


class Halves(Backbone):
    """Features that can be worked out by hand: the picture at half size, and its negative doubled."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, luma):
        half = self.one * F.avg_pool2d(luma, 2)
        return {"both": torch.cat([half, -2 * half], 1), "coarse": F.avg_pool2d(half, 2)}


@pytest.fixture
def sources():
    return np.random.default_rng(0).integers(0, 256, (2, *SIZE)).astype(np.uint8)


@pytest.fixture(scope="module")
def random_samples():
    return np.random.default_rng(1).random((5, *SIZE), np.float32)


@pytest.fixture
def teacher(tmp_path):
    """Checkpoint of a tiny untrained denoiser."""
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    save_denoiser(Denoiser((16, 16, 16)), tmp_path / "teacher.safetensors", {})
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ensemble, "ENSEMBLE_CROP_PX", CROP_PX)
    monkeypatch.setattr(ensemble, "SAMPLES", 2)
    monkeypatch.setitem(SAMPLING_METHODS, "guided", Sampling(steps=3, refinements=3))


def run(*arguments):
    pytest.importorskip("efficientnet_lite_pytorch")
    ensemble.main([str(argument) for argument in arguments])


def assert_equal(one, other):
    assert one.id == other.id
    for name in ("luma", "thermal", "mean", "variance"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("feature_mean", "feature_variance"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a), name


# statistics


def test_mean_and_variance_of_two_levels_are_those_worked_out_by_hand(sources):
    samples = np.full((4, *SIZE), 0.5, np.float32)
    samples[:2, :, :10], samples[2:, :, :10] = 0.25, 0.75
    found = summarise("id", *sources, samples, None)
    assert (found.mean == 0.5).all()
    assert (found.variance[:, :10] == 0.0625).all() and (found.variance[:, 10:] == 0).all()
    assert not found.feature_mean and not found.feature_variance


def test_statistics_are_those_of_numpy_to_the_precision_of_float16(sources, random_samples):
    found = summarise("id", *sources, random_samples, None)
    assert found.mean.dtype == found.variance.dtype == torch.float16
    np.testing.assert_allclose(found.mean.float(), random_samples.mean(0), rtol=1e-3)
    np.testing.assert_allclose(found.variance.float(), random_samples.var(0), rtol=1e-3, atol=1e-7)
    for kept, source in zip((found.luma, found.thermal), sources, strict=True):
        assert kept.dtype == torch.uint8 and (kept.numpy() == source).all()


def test_a_variance_of_one_grey_level_survives_storage(sources):
    samples = np.stack([np.full(SIZE, level / 255, np.float32) for level in (100, 102)])
    variance = summarise("id", *sources, samples, None).variance
    np.testing.assert_allclose(variance.float(), 1 / 255**2, rtol=0.01)


def test_feature_variance_is_relative_to_the_layers_power(sources, random_samples):
    found = summarise("id", *sources, random_samples, Halves())
    half = random_samples.reshape(5, SIZE[0] // 2, 2, SIZE[1] // 2, 2).mean((2, 4))
    both = np.stack([half, -2 * half], 1)
    assert (
        found.feature_mean["both"].shape == (2, 16, 24) and found.feature_mean["both"].dtype == torch.float16
    )
    assert found.feature_variance["both"].shape == (16, 24)
    assert found.feature_variance["coarse"].shape == (8, 12)
    np.testing.assert_allclose(found.feature_mean["both"].float(), both.mean(0), rtol=2e-3)
    expected = both.var(0).mean(0) / (both**2).mean()
    np.testing.assert_allclose(found.feature_variance["both"].float(), expected, rtol=2e-3, atol=1e-6)


def test_samples_that_agree_have_no_variance_anywhere(sources, random_samples):
    found = summarise("id", *sources, np.repeat(random_samples[:1], 4, 0), Halves())
    assert found.variance.max() < 1e-6
    assert all(variance.max() < 1e-6 for variance in found.feature_variance.values())


def test_the_order_of_samples_does_not_matter(sources, random_samples):
    one, other = (
        summarise("id", *sources, s, Halves()) for s in (random_samples, random_samples[::-1].copy())
    )
    for a, b in zip((one.mean, one.variance), (other.mean, other.variance), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=2e-3)


# on disk


def test_an_ensemble_survives_the_way_to_disk_and_back(sources, random_samples, tmp_path):
    kept = summarise("drive_7", *sources, random_samples, Halves(), 12.5)
    kept.save(tmp_path / "new" / "00001.safetensors")
    found = load_ensemble(tmp_path / "new" / "00001.safetensors")
    assert_equal(kept, found)
    assert found.seconds == 12.5
    summarise("drive_8", *sources, random_samples, None).save(tmp_path / "new" / "00000.safetensors")
    assert [one.id for one in load_ensembles(tmp_path / "new")] == ["drive_8", "drive_7"]


def test_what_a_killed_process_left_half_written_is_not_read(sources, random_samples, tmp_path):
    kept = summarise("id", *sources, random_samples, None)
    kept.save(tmp_path / "a.safetensors")
    (tmp_path / ".b.safetensors.1234").write_bytes(b"half")
    assert len(load_ensembles(tmp_path)) == 1


@pytest.mark.parametrize("name", ["luma", "variance", "feature_variance.both"])
def test_an_ensemble_that_lacks_a_part_is_named(sources, random_samples, tmp_path, name):
    path = tmp_path / "a.safetensors"
    summarise("id", *sources, random_samples, Halves()).save(path)
    tensors, metadata = ensemble.read_tensors(path)
    write_tensors(path, {n: t for n, t in tensors.items() if n != name}, metadata)
    with pytest.raises(TensorFileError, match=f"{path}: not a teacher ensemble"):
        load_ensemble(path)
    write_tensors(path, tensors, {})
    with pytest.raises(TensorFileError, match=f"{path}: not a teacher ensemble"):
        load_ensemble(path)


def test_a_folder_without_ensembles_is_named(tmp_path):
    with pytest.raises(TensorFileError, match=f"{tmp_path}: no ensembles"):
        load_ensembles(tmp_path)


# what is asked for


def test_pairs_are_spread_evenly_over_their_order():
    assert spread(list("abcdefghi"), 3) == ["a", "e", "i"]
    assert spread(list("abc"), 30) == ["a", "b", "c"]


def test_crops_are_of_each_set_in_turn_and_of_seed_and_index_alone(pair_folder, quick):
    examples = [data.load(pair) for pair in data.find_pairs(pair_folder)]
    crops = [ensemble.crop_under_conditions(examples, index, 0) for index in range(12)]
    assert [name.partition("-")[0] for name, *_ in crops] == ["m3svd", "msrs"] * 6
    assert len({name for name, *_ in crops}) > 6
    for name, luma, thermal in crops:
        assert luma.shape == thermal.shape == (CROP_PX, CROP_PX) and luma.dtype == thermal.dtype == np.uint8
        assert any(name == f"{example.file.set}-{example.file.id}" for example in examples)
    for index, crop in enumerate(crops):
        again = ensemble.crop_under_conditions(examples, index, 0)
        assert crop[0] == again[0] and all((a == b).all() for a, b in zip(crop[1:], again[1:], strict=True))
    other = ensemble.crop_under_conditions(examples, 0, 1)
    assert other[0] != crops[0][0] or (other[1] != crops[0][1]).any()


def test_each_sample_of_each_pair_has_a_seed_of_its_own_that_a_name_always_gives(sources, quick):
    class Recorder:
        def sample(self, luma, thermal, seeds):
            self.seeds = list(seeds)
            return np.random.default_rng(self.seeds[0]).random((len(self.seeds), *SIZE), np.float32)

    recorder = Recorder()

    def seeds(name, seed):
        ensemble.Asker(recorder, "guided", None, seed).ask(name, "id", *sources)
        return recorder.seeds

    asked = seeds("00000", 0) + seeds("00001", 0) + seeds("00000", 1)
    assert len(set(asked)) == len(asked) == 3 * ensemble.SAMPLES
    assert seeds("00001", 0) == asked[ensemble.SAMPLES : 2 * ensemble.SAMPLES]


# the command


def test_crops_of_training_pairs_are_sampled_and_a_killed_run_goes_on(pair_folder, teacher, tmp_path, quick):
    arguments = ("--data", pair_folder, "--teacher", teacher, "--out", tmp_path / "out", "--crops")
    run(*arguments, 2)
    paths = sorted((tmp_path / "out").glob("*"))
    assert [path.name for path in paths] == ["00000.safetensors", "00001.safetensors"]
    first = load_ensembles(tmp_path / "out")
    training = {f"{pair.set}-{pair.id}" for pair in data.split(data.find_pairs(pair_folder))[0]}
    for one in first:
        assert one.id in training and one.seconds > 0
        assert one.luma.shape == one.mean.shape == (CROP_PX, CROP_PX)
        assert one.variance.max() > 0, "samples differ"
        assert {tuple(v.shape) for v in one.feature_variance.values()} == {(8, 8), (4, 4), (2, 2)}
        assert all(v.max() > 0 for v in one.feature_variance.values())

    kept, lost = paths
    lost.unlink()
    before = kept.stat().st_mtime_ns
    run(*arguments, 3)
    assert kept.stat().st_mtime_ns == before, "what is there is not asked again"
    again = load_ensembles(tmp_path / "out")
    assert len(again) == 3
    assert_equal(again[1], first[1])


def test_seeds_make_other_ensembles_of_other_crops(pair_folder, teacher, tmp_path, quick):
    means = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = (
            "--data",
            pair_folder,
            "--teacher",
            teacher,
            "--out",
            tmp_path / name,
            "--method",
            "restoration",
        )
        run(*arguments, "--crops", 1, "--seed", seed)
        means.append(load_ensembles(tmp_path / name)[0].mean)
    assert torch.equal(means[0], means[1]) and not torch.equal(means[0], means[2])


def test_pairs_kept_out_of_training_are_sampled_whole_at_the_scale_asked_for(
    pair_folder, teacher, tmp_path, quick
):
    out = tmp_path / "held_out"
    run(
        *("--data", pair_folder, "--teacher", teacher, "--out", out, "--method", "restoration"),
        *("--held-out", 2, "--scale", 0.25),
    )
    held_out = data.split(data.find_pairs(pair_folder))[1]
    pairs = {f"{pair.set}-{pair.id}": pair for pair in held_out}
    paths = sorted(out.glob("*.safetensors"))
    assert len(paths) == min(2, len(held_out))
    for path in paths:
        example, found = data.load(pairs[path.stem]), load_ensemble(path)
        assert found.id == pairs[path.stem].id
        assert found.luma.shape == (72, 88)
        reduced = cv2.resize(example.luma, (88, 72), interpolation=cv2.INTER_AREA)
        assert (found.luma.numpy() == reduced).all()


# samples of another teacher


@pytest.fixture
def foreign(pair_folder, tmp_path):
    """Another teacher's pictures of two training pairs: (folder, {file name of the ensemble: their grey levels})."""
    training = data.split(data.find_pairs(pair_folder))[0]
    levels = {}
    for index, pair in enumerate(training[:2]):
        folder = tmp_path / "foreign" / pair.id
        folder.mkdir(parents=True)
        levels[f"{pair.set}-{pair.id}"] = [40 + index, 80, 180]
        for k, level in enumerate((40 + index, 80, 180)):
            cv2.imwrite(str(folder / f"sample_{k}.png"), np.full((288, 352, 3), level, np.uint8))
    return tmp_path / "foreign", levels


def imported(pair_folder, folder, out):
    run("--data", pair_folder, "--samples", folder, "--out", out)
    return {path.stem: load_ensemble(path) for path in out.glob("*.safetensors")}


def test_samples_of_another_teacher_are_summarised_like_ones_own(pair_folder, foreign, tmp_path):
    folder, levels = foreign
    found = imported(pair_folder, folder, tmp_path / "out")
    side = ensemble.ENSEMBLE_CROP_PX
    assert found.keys() == {f"{name}-0-0" for name in levels}  # a picture of 288x352 holds one tile
    sources = {f"{pair.set}-{pair.id}": pair for pair in data.find_pairs(pair_folder)}
    for name, of_name in levels.items():
        tile = found[f"{name}-0-0"]
        np.testing.assert_allclose(tile.mean.float(), np.mean(of_name) / 255, rtol=1e-3)
        np.testing.assert_allclose(tile.variance.float(), np.var(of_name) / 255**2, rtol=1e-3)
        assert tile.id == sources[name].id
        assert (tile.luma.numpy() == data.load(sources[name]).luma[:side, :side]).all()
        assert tile.feature_mean


def test_tiles_of_a_large_picture_lie_side_by_side(pair_folder, foreign, tmp_path, quick):
    folder, levels = foreign
    found = imported(pair_folder, folder, tmp_path / "out")
    assert len(found) == len(levels) * (288 // CROP_PX) * (352 // CROP_PX)
    name = next(iter(levels))
    pair = next(p for p in data.find_pairs(pair_folder) if f"{p.set}-{p.id}" == name)
    tile = found[f"{name}-{CROP_PX}-{2 * CROP_PX}"]
    expected = data.load(pair).thermal[CROP_PX : 2 * CROP_PX, 2 * CROP_PX : 3 * CROP_PX]
    assert (tile.thermal.numpy() == expected).all()


def test_samples_in_colour_count_by_their_luma(pair_folder, foreign, tmp_path):
    folder, _ = foreign
    one = sorted(folder.iterdir())[0]
    for path in one.iterdir():
        cv2.imwrite(str(path), np.full((288, 352, 3), (255, 0, 0), np.uint8))  # blue
    ensembles = imported(pair_folder, folder, tmp_path / "out").values()
    (mean,) = (found.mean.float().mean().item() for found in ensembles if found.id == one.name)
    assert mean == pytest.approx(0.114, abs=0.002)


def test_a_sample_of_another_size_or_that_is_no_picture_is_named(pair_folder, foreign, tmp_path):
    folder, _ = foreign
    path = sorted(folder.iterdir())[0] / "sample_1.png"
    cv2.imwrite(str(path), np.zeros((288, 351, 3), np.uint8))
    with pytest.raises(data.DataError, match=f"{path}: not a readable picture of the size"):
        imported(pair_folder, folder, tmp_path / "out")
    path.write_bytes(b"no picture")
    with pytest.raises(data.DataError, match=f"{path}: not a readable picture of the size"):
        imported(pair_folder, folder, tmp_path / "out")


def test_a_single_sample_is_refused_since_it_has_no_variance(pair_folder, foreign, tmp_path):
    folder, _ = foreign
    one = sorted(folder.iterdir())[0]
    for path in sorted(one.iterdir())[1:]:
        path.unlink()
    with pytest.raises(data.DataError, match=f"{one}: 1 samples .* needs at least 2"):
        imported(pair_folder, folder, tmp_path / "out")


def test_samples_of_no_known_pair_are_said_to_be_missing(pair_folder, foreign, tmp_path):
    folder, _ = foreign
    for path in sorted(folder.iterdir()):
        shutil.move(path, folder / f"unknown_{path.name}")
    with pytest.raises(data.DataError, match=f"{folder}: no folder in it .* training pair"):
        imported(pair_folder, folder, tmp_path / "out")


def test_an_ensemble_needs_an_origin(pair_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--data", pair_folder, "--out", tmp_path)
    assert "--teacher --samples" in capsys.readouterr().err
