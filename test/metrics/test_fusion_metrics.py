"""Each metric against what can be worked out by hand, and all against an independent implementation."""

import json

import numpy as np
import pytest

from fusionproxy_ros.distill import data
from fusionproxy_ros.metrics import classical, fusion_metrics


@pytest.mark.slow
def test_metrics_agree_with_an_independent_implementation(shared_data):
    methods = {"average": classical.average, "maximum": classical.maximum}
    files = {(pair.set, pair.id): pair for pair in data.find_pairs(shared_data / "pairs")}
    for row in json.loads((shared_data / "metrics_check.json").read_text()):
        example = data.load(files[row["set"], row["id"]])
        luma, thermal = example.luma, example.thermal
        fused = methods[row["fused"]](luma, thermal)
        for name, metric in fusion_metrics.METRICS.items():
            assert metric(fused, luma, thermal) == pytest.approx(row[name], rel=0.005), (name, row)


def test_entropy_counts_the_bits_of_a_pixel(textures):
    two_levels = np.tile(np.uint8([7, 200]), (32, 16))
    assert fusion_metrics.en(two_levels, *textures) == pytest.approx(1)
    assert fusion_metrics.en(np.arange(256).reshape(16, 16), *textures) == pytest.approx(8)
    assert fusion_metrics.en(np.full((16, 16), 9), *textures) == 0


def test_a_picture_tells_its_own_entropy_about_itself_and_nothing_about_an_independent_one(textures):
    image = textures[0]
    own = fusion_metrics.en(image, image, image)
    assert fusion_metrics.mi(image, image, image) == pytest.approx(2 * own)
    assert fusion_metrics.mi(image, image, np.zeros_like(image)) == pytest.approx(own)
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    assert fusion_metrics.mi(columns, rows, rows) == pytest.approx(0, abs=1e-9)


def test_deviation_frequency_and_gradient_of_known_pictures(textures):
    halves = np.repeat(np.uint8([[50, 150]]), 10, axis=0)
    assert fusion_metrics.sd(halves, *textures) == pytest.approx(50)
    rows, columns = np.mgrid[:21, :31]
    ramp = 3.0 * columns + 4.0 * rows
    assert fusion_metrics.sf(ramp, *textures) == pytest.approx(5)
    assert fusion_metrics.ag(ramp, *textures) == pytest.approx(np.sqrt(25 / 2) * (21 * 31) / (20 * 30))


def test_correlation_is_one_for_a_linear_picture_of_both_and_cancels_for_opposites(textures):
    y = textures[0].astype(float)
    assert fusion_metrics.cc(2 * y + 1, y, 0.5 * y) == pytest.approx(1)
    assert fusion_metrics.cc(y, y, -y) == pytest.approx(0)


def test_a_copy_of_both_sources_has_full_ssim_and_vif_and_nearly_all_edges(textures):
    image = textures[0]
    assert fusion_metrics.ssim(image, image, image) == pytest.approx(2)
    assert fusion_metrics.vif(image, image, image) == pytest.approx(2, abs=1e-4)
    assert 0.97 < fusion_metrics.qabf(image, image, image) <= 1


def test_an_average_of_two_uncorrelated_sources_has_full_scd():
    """F = (Y + T) / 2 gives F - T = (Y - T) / 2, whose correlation with Y is 1 / sqrt(2) for equal contrast."""
    y = np.tile([0.0, 0, 100, 100], (64, 16))
    t = np.tile([0.0, 100, 0, 100], (64, 16))
    assert fusion_metrics.scd((y + t) / 2, y, t) == pytest.approx(np.sqrt(2))
    assert fusion_metrics.scd(y + t, y, t) == pytest.approx(2)


def test_a_picture_without_contrast_carries_nothing(textures):
    flat = np.full_like(textures[0], 128)
    for metric in (
        fusion_metrics.vif,
        fusion_metrics.mi,
        fusion_metrics.cc,
        fusion_metrics.en,
        fusion_metrics.sd,
        fusion_metrics.sf,
        fusion_metrics.ag,
    ):
        assert metric(flat, *textures) == pytest.approx(0, abs=1e-6)
    assert fusion_metrics.qabf(flat, *textures) < 0.02
    assert fusion_metrics.scd(flat, flat, flat) == 0


def test_information_is_not_kept_by_a_negative_and_grows_with_contrast(textures):
    y = textures[0].astype(float)
    assert fusion_metrics.vif(255 - y, y, y) == pytest.approx(0, abs=1e-6)
    assert fusion_metrics.vif(2 * y, y, y) > 2


def test_more_noise_is_worse_for_every_metric_that_ranks_but_raises_those_that_see_the_fused_picture_alone(
    textures,
):
    image, rng = textures[0].astype(float), np.random.default_rng(0)
    slight, strong = (image + rng.normal(0, sigma, image.shape) for sigma in (5, 40))
    for name in ("VIF", "Qabf", "SSIM", "MI"):
        clean, little, much = (
            fusion_metrics.METRICS[name](noisy, image, image) for noisy in (image, slight, strong)
        )
        assert clean > little > much, name
    for name in ("SD", "SF", "AG"):
        assert fusion_metrics.METRICS[name](strong, image, image) > fusion_metrics.METRICS[name](
            image, image, image
        ), name


def test_the_number_type_of_a_picture_changes_nothing(textures):
    fused = classical.average(*textures)
    for name, metric in fusion_metrics.METRICS.items():
        as_float = metric(fused.astype(float), *(image.astype(float) for image in textures))
        assert metric(fused, *textures) == pytest.approx(as_float, rel=1e-6), name


def test_psnr_of_a_known_error():
    assert fusion_metrics.psnr(np.full((8, 8), 10), np.zeros((8, 8))) == pytest.approx(20 * np.log10(25.5))
    assert fusion_metrics.psnr(np.ones((8, 8)), np.ones((8, 8))) == float("inf")
