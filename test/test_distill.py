import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fusionproxy_ros.distill import data, evaluate, losses, metrics, train
from fusionproxy_ros.student import load_student

SHARED = Path(os.environ.get("FUSIONPROXY_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_pairs = pytest.mark.skipif(
    not (SHARED / "pairs").is_dir(), reason=f"no training pairs at {SHARED / 'pairs'}"
)


@pytest.fixture
def textures():
    """Two smooth random images, (120, 160) uint8."""
    rng = np.random.default_rng(3)
    return [
        cv2.GaussianBlur(rng.integers(0, 256, (120, 160)).astype(np.uint8), (0, 0), 2) * 2 for _ in range(2)
    ]


def tensors(*images):
    return [data.to_tensor(image) for image in images]


@pytest.fixture
def pair_folder(tmp_path):
    """Two sets of tiny pairs on disk, several scenes each."""
    rng = np.random.default_rng(4)
    ids = {
        "msrs": [f"{n:05d}N" for n in (1, 5, 300, 305, 900, 1500)],
        "m3svd": [f"{c}_0000" for c in "abcdef"],
    }
    for name, members in ids.items():
        for kind, shape in (("rgb", (288, 352, 3)), ("thermal", (288, 352))):
            (tmp_path / name / kind).mkdir(parents=True)
            for member in members:
                image = cv2.blur(rng.integers(0, 256, shape).astype(np.uint8), (9, 9))
                cv2.imwrite(str(tmp_path / name / kind / f"{member}.png"), image)
    return tmp_path


# metrics


def test_a_copy_of_both_sources_has_full_ssim_and_vif_and_nearly_all_edges(textures):
    image = textures[0]
    assert metrics.ssim(image, image, image) == pytest.approx(2)
    assert metrics.vif(image, image, image) == pytest.approx(2, abs=1e-6)
    assert 0.97 < metrics.qabf(image, image, image) <= 1


def test_an_average_of_two_uncorrelated_sources_has_full_scd():
    """F = (Y + T) / 2 gives F - T = (Y - T) / 2, whose correlation with Y is 1 / sqrt(2) for equal contrast."""
    y = np.tile([0.0, 0, 100, 100], (64, 16))
    t = np.tile([0.0, 100, 0, 100], (64, 16))
    assert metrics.scd((y + t) / 2, y, t) == pytest.approx(np.sqrt(2))
    assert metrics.scd(y + t, y, t) == pytest.approx(2)


def test_a_picture_without_contrast_carries_nothing(textures):
    flat = np.full_like(textures[0], 128)
    assert metrics.vif(flat, *textures) == pytest.approx(0, abs=1e-6)
    assert metrics.qabf(flat, *textures) < 0.02
    assert metrics.scd(flat, flat, flat) == 0


def test_more_noise_is_worse_for_every_metric_of_fidelity(textures):
    image, rng = textures[0].astype(float), np.random.default_rng(0)
    slight, strong = (image + rng.normal(0, sigma, image.shape) for sigma in (5, 40))
    for metric in (metrics.vif, metrics.qabf, metrics.ssim):
        assert metric(image, image, image) > metric(slight, image, image) > metric(strong, image, image)


def test_psnr_of_a_known_error():
    assert metrics.psnr(np.full((8, 8), 10), np.zeros((8, 8))) == pytest.approx(20 * np.log10(25.5))
    assert metrics.psnr(np.ones((8, 8)), np.ones((8, 8))) == float("inf")


def test_metrics_agree_with_an_independent_implementation():
    check = SHARED / "metrics_check.json"
    if not check.is_file():
        pytest.skip(f"no {check}")
    methods = {"average": evaluate.average, "maximum": evaluate.maximum}
    files = {(pair.set, pair.id): pair for pair in data.find_pairs(SHARED / "pairs")}
    for row in json.loads(check.read_text()):
        example = data.load(files[row["set"], row["id"]])
        fused = methods[row["fused"]](example.luma, example.thermal)
        for name, metric in metrics.METRICS.items():
            assert metric(fused, example.luma, example.thermal) == pytest.approx(row[name], rel=0.005), (
                name,
                row,
            )


# losses


def test_every_loss_is_zero_only_where_it_should_be(textures):
    image, other = tensors(*textures)
    assert losses.gradient(image, image, image).item() == 0
    assert losses.structure(image, image, image).item() == pytest.approx(0, abs=1e-5)
    assert losses.identity_loss(image, image).item() == 0
    for term in (losses.gradient, losses.structure, losses.correlation, losses.intensity):
        assert term(1 - image, image, other).item() > term(image, image, other).item() >= 0


def test_screen_adds_only_what_is_warmer_than_the_background():
    luma = torch.full((1, 1, 32, 32), 0.2)
    luma[..., :8] = 1.0  # a lamp
    thermal = torch.full_like(luma, 0.4)
    thermal[..., 4:12] = 0.9
    thermal[..., 28:] = 0.1
    target = losses.screen(luma, thermal)
    assert torch.equal(target[..., :8], luma[..., :8])
    torch.testing.assert_close(target[..., 8:12], torch.full((1, 1, 32, 4), 1 - 0.8 * 0.5))
    torch.testing.assert_close(target[..., 12:], luma[..., 12:])
    assert losses.intensity(target, luma, thermal).item() == 0


def test_the_gradient_loss_keeps_the_stronger_edge_with_its_sign():
    luma, thermal = torch.zeros(2, 1, 1, 16, 16)
    luma[..., 8:] = 0.5
    thermal[..., 8:] = -0.2
    assert losses.gradient(luma, luma, thermal).item() == 0
    per_pixel = 1.0 / 15  # an edge of -0.5 in place of +0.5, in one of 15 differences
    assert losses.gradient(-luma, luma, thermal).item() == pytest.approx(per_pixel)


def test_the_structure_and_correlation_losses_are_the_metrics(textures):
    fused = evaluate.average(*textures)
    arguments = tensors(fused, *textures)
    assert 2 - losses.correlation(*arguments).item() == pytest.approx(metrics.scd(fused, *textures), abs=1e-4)
    # The metric divides by 48 where the loss divides by 49.
    assert 2 - losses.structure(*arguments).item() == pytest.approx(metrics.ssim(fused, *textures), abs=5e-3)


def test_the_losses_have_finite_gradients_on_flat_images():
    fused = torch.full((2, 1, 32, 32), 0.5, requires_grad=True)
    flat = torch.full((2, 1, 32, 32), 0.5)
    losses.fusion_loss(fused, flat, flat, losses.Weights()).backward()
    assert fused.grad.isfinite().all()


# data


def test_no_scene_is_on_both_sides_of_the_split(pair_folder):
    pairs = data.find_pairs(pair_folder)
    training, held_out = data.split(pairs)
    assert set(training) | set(held_out) == set(pairs) and not set(training) & set(held_out)
    assert held_out and training
    for frames in data.scenes(pairs).values():
        assert set(frames) <= set(training) or set(frames) <= set(held_out)
    assert data.split(list(reversed(pairs)))[1] == held_out


def test_scenes_are_clips_drives_and_runs_of_neighbouring_numbers(pair_folder):
    by_scene = data.scenes(data.find_pairs(pair_folder))
    members = {name: [pair.id for pair in frames] for name, frames in by_scene.items()}
    assert members["msrs/N1"] == ["00001N", "00005N"]
    assert members["msrs/N300"] == ["00300N", "00305N"]
    assert members["m3svd/a"] == ["a_0000"]


@needs_pairs
def test_the_real_pairs_split_by_scene():
    pairs = data.find_pairs(SHARED / "pairs")
    training, held_out = data.split(pairs)
    for name in ("m3fd", "m3svd", "msrs", "roadscene"):
        share = sum(pair.set == name for pair in held_out) / sum(pair.set == name for pair in pairs)
        assert 0.15 < share < 0.25, name
    # Frames a repository renamed are neighbours of those it took them from.
    night = next(frames for frames in data.scenes(pairs).values() if any(p.id == "00004N" for p in frames))
    assert "tdrmf_00005N" in {pair.id for pair in night}
    clips = [
        {pair.id.rpartition("_")[0] for pair in side if pair.set == "m3svd"} for side in (training, held_out)
    ]
    assert not clips[0] & clips[1]


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(data.DataError, match="no pairs below"):
        data.find_pairs(tmp_path)


def test_a_pair_without_partner_or_with_another_size_is_named(pair_folder):
    pairs = data.find_pairs(pair_folder)
    cv2.imwrite(str(pairs[0].thermal), np.zeros((10, 10), np.uint8))
    with pytest.raises(data.DataError, match=pairs[0].thermal.name):
        data.load(pairs[0])
    pairs[0].thermal.unlink()
    with pytest.raises(data.DataError, match="no thermal partner"):
        data.find_pairs(pair_folder)


# training and evaluation


def test_augmented_crops_keep_range_and_size_and_cover_dead_and_partial_thermal(pair_folder):
    example = data.load(data.find_pairs(pair_folder)[0])
    rng = np.random.default_rng(0)
    crops = [train.augment(example, rng) for _ in range(60)]
    for luma, thermal, weight, dead in crops:
        for image in (luma, thermal, weight):
            assert image.shape == (train.CROP_PX, train.CROP_PX) and image.min() >= 0 and image.max() <= 1
        assert not dead or thermal.std() < 0.02
    assert 0 < sum(dead for *_, dead in crops) < 30
    partial = sum(not weight.all() for _, _, weight, _ in crops)
    assert 0 < partial < 45


def test_training_lowers_its_loss_and_is_reproducible(pair_folder):
    torch.set_num_threads(2)
    examples = [data.load(pair) for pair in data.find_pairs(pair_folder)[:4]]
    trained = train.train(examples, steps=12, seed=1)
    again = train.train(examples, steps=12, seed=1)
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    torch.manual_seed(1)
    rng = np.random.default_rng(9)
    batches = [train.draw_batch(examples, rng) for _ in range(3)]
    with torch.no_grad():
        before, after = (
            sum(train.loss_of(student, batch, losses.Weights()).item() for batch in batches)
            for student in (train.Student(), trained)
        )
    assert after < before


def test_the_training_command_writes_a_checkpoint_that_the_evaluation_command_reads(
    pair_folder, tmp_path, capsys
):
    checkpoint = tmp_path / "new" / "student.safetensors"
    train.main(["--data", str(pair_folder), "--out", str(checkpoint), "--steps", "3"])
    load_student(checkpoint)
    assert "step 3 loss" in checkpoint.with_suffix(".log").read_text()
    evaluate.main(
        ["--data", str(pair_folder), "--student", str(checkpoint), "--out", str(tmp_path / "report")]
    )
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert report.keys() == {"msrs", "m3svd", "all"}
    assert report["all"].keys() == {"average", "maximum", "Laplacian pyramid", "guided filter", "student"}
    assert report["all"]["student"].keys() == metrics.METRICS.keys()
    assert cv2.imread(str(tmp_path / "report" / "sheet.png")) is not None
    assert "flat thermal" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["average", "maximum", "laplacian_pyramid", "guided_filter"])
def test_classical_fusion_of_two_equal_images_is_that_image(textures, name):
    fused = getattr(evaluate, name)(textures[0], textures[0])
    assert fused.dtype == np.uint8 and np.abs(fused.astype(int) - textures[0]).max() <= 1


def test_mean_rank_counts_one_for_the_best():
    means = {"good": dict.fromkeys(metrics.METRICS, 2.0), "bad": dict.fromkeys(metrics.METRICS, 1.0)}
    assert evaluate.mean_ranks(means) == {"good": 1, "bad": 2}
