"""The energy of fused pictures against what it is made of: metrics, closed forms and known minima."""

from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionproxy_ros.distill import likelihood
from fusionproxy_ros.distill.data import to_tensor
from fusionproxy_ros.distill.likelihood import Latent, Likelihood, TermWeights, draw_latent, lit, warmth
from fusionproxy_ros.metrics import classical, fusion_metrics

TERMS = [field.name for field in fields(TermWeights)]
LEVELS = st.floats(0, 1, width=32)
PICTURES = arrays(np.float32, (2, 1, 4, 5), elements=LEVELS).map(torch.from_numpy)
EPS = 1e-6  # of float32 sums around 1
patient = settings(deadline=None, max_examples=50)  # the machine may be busy


def energy(fused, luma, thermal, latent=likelihood.UNDECIDED, **weights):
    """(N,) energy in which only the named terms count."""
    return Likelihood(luma, thermal, latent, TermWeights(**dict.fromkeys(TERMS, 0.0) | weights)).energy(fused)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair(textures):
    """Luma and thermal, (1, 1, 120, 160)."""
    return [to_tensor(image) for image in textures]


# light


@patient
@given(PICTURES, PICTURES, LEVELS)
def test_warmth_never_darkens_and_never_saturates_beyond_white(luma, thermal, addition):
    picture = lit(luma, thermal, addition)
    assert (picture >= luma - EPS).all() and (picture <= 1 + EPS).all()


@patient
@given(PICTURES, PICTURES, LEVELS)
def test_what_is_no_warmer_than_the_background_adds_nothing(luma, thermal, addition):
    background = thermal.flatten(1).median(1).values[:, None, None, None]
    cold = thermal <= background
    assert cold.any() and (warmth(thermal)[cold] == 0).all()
    torch.testing.assert_close(lit(luma, thermal, addition)[cold], luma[cold], atol=EPS, rtol=0)


@patient
@given(PICTURES, PICTURES, LEVELS)
def test_addition_leads_from_the_maximum_to_screen(luma, thermal, addition):
    warm = warmth(thermal)
    assert torch.equal(lit(luma, thermal, 0), torch.maximum(luma, warm))
    screen = 1 - (1 - luma) * (1 - warm)
    torch.testing.assert_close(lit(luma, thermal, 1), screen, atol=EPS, rtol=0)
    assert (lit(luma, thermal, addition) <= screen + EPS).all()


def test_a_lamp_and_a_warm_body_by_hand():
    luma = torch.full((1, 1, 32, 32), 0.2)
    luma[..., :8] = 1.0  # a lamp
    thermal = torch.full_like(luma, 0.4)
    thermal[..., 4:12] = 0.9
    thermal[..., 28:] = 0.1
    target = lit(luma, thermal, 1)
    assert torch.equal(target[..., :8], luma[..., :8])
    torch.testing.assert_close(target[..., 8:12], torch.full((1, 1, 32, 4), 1 - 0.8 * 0.5))
    torch.testing.assert_close(target[..., 12:], luma[..., 12:])


@pytest.mark.parametrize("addition", (0.0, 0.5, 1.0))
def test_light_is_least_at_lit_luma_and_counts_the_mean_distance(pair, addition):
    target = lit(*pair, addition)
    assert energy(target, *pair, Latent(addition), light=1) == 0
    assert energy(target + 0.25, *pair, Latent(addition), light=2).item() == pytest.approx(0.5)


# gradient


def test_the_stronger_edge_is_kept_with_its_sign():
    luma, thermal = torch.zeros(2, 1, 1, 32, 32)
    luma[..., 8:] = 0.5
    thermal[..., 8:] = -0.2
    assert energy(luma, luma, thermal, gradient=1) == 0
    per_pixel = 1.0 / 31  # an edge of -0.5 in place of +0.5, in one of 31 differences
    assert energy(-luma, luma, thermal, gradient=1).item() == pytest.approx(per_pixel)


def test_edges_of_each_source_are_wanted_where_it_has_them():
    luma, thermal = torch.zeros(2, 1, 1, 32, 32)
    luma[..., 8:] = 0.5
    thermal[:, :, 20:] = 0.3
    assert energy(luma + thermal, luma, thermal, gradient=1).item() == pytest.approx(0, abs=EPS)
    assert energy(luma, luma, thermal, gradient=1).item() == pytest.approx(0.3 / 31)
    assert energy(thermal, luma, thermal, gradient=1).item() == pytest.approx(0.5 / 31)


def test_the_favour_of_a_place_decides_between_edges():
    luma, thermal = noise(
        2, 1, 1, 120, 160
    )  # no two neighbours are equal, so each source has edges everywhere
    favour = torch.zeros_like(luma)
    favour[..., :80], favour[..., 80:] = 50, -50
    halves = torch.where(favour > 0, luma, thermal)
    wrong = torch.where(favour > 0, thermal, luma)
    seam = energy(halves, luma, thermal, Latent(0.5, favour), gradient=1)
    border = (luma - thermal)[..., 79:81].abs().sum() / (
        120 * 159
    )  # the one column whose edges are of neither
    assert seam <= 2 * border
    assert energy(wrong, luma, thermal, Latent(0.5, favour), gradient=1) > 10 * seam


# structure and correlation


def test_structure_and_correlation_are_the_metrics(pair, textures):
    for name, fuse in classical.CLASSICAL.items():
        fused = fuse(*textures)
        scd = 2 - energy(to_tensor(fused), *pair, correlation=1).item()
        assert scd == pytest.approx(fusion_metrics.scd(fused, *textures), abs=1e-4), name
        # The metric divides by 48 where the energy divides by 49.
        ssim = 2 - energy(to_tensor(fused), *pair, structure=1).item()
        assert ssim == pytest.approx(fusion_metrics.ssim(fused, *textures), abs=5e-3), name


def test_a_copy_of_both_has_all_structure_and_a_sum_of_both_all_correlation(pair):
    luma, thermal = pair
    assert energy(luma, luma, luma, structure=1).item() == pytest.approx(0, abs=1e-5)
    assert energy(1 - luma, luma, luma, structure=1).item() > 2
    assert energy(luma + thermal, luma, thermal, correlation=1).item() == pytest.approx(0, abs=1e-4)
    assert energy(-luma - thermal, luma, thermal, correlation=1).item() > 2.5


# information


def candidates(luma, thermal):
    """Fused pictures, (H, W) uint8, that carry more and less of both sources."""
    rng = np.random.default_rng(0)
    average = classical.average(luma, thermal)
    return [fuse(luma, thermal) for fuse in classical.CLASSICAL.values()] + [
        luma,
        thermal,
        np.clip(luma + rng.normal(0, 30, luma.shape), 0, 255).astype(np.uint8),
        (average // 8 * 8).astype(np.uint8),
        cv2.GaussianBlur(luma, (0, 0), 1),
        cv2.GaussianBlur(luma, (0, 0), 3),
        np.full_like(luma, 90),
    ]


def test_information_is_nearly_vif_and_orders_pictures_like_it(pair, textures):
    pictures = candidates(*textures)
    ours = np.array([2 - energy(to_tensor(fused), *pair, information=1).item() for fused in pictures])
    vif = np.array([fusion_metrics.vif(fused, *textures) for fused in pictures])
    np.testing.assert_allclose(ours, vif, atol=0.1)
    clear = np.triu(np.abs(vif[:, None] - vif) > 0.15)
    agree = np.sign(ours[:, None] - ours) == np.sign(vif[:, None] - vif)
    assert clear.sum() > 10 and agree[clear].all()


def test_a_copy_carries_nearly_all_information_and_a_flat_picture_or_a_negative_none(pair):
    luma, thermal = pair
    assert energy(luma, luma, luma, information=1).item() == pytest.approx(0, abs=0.1)
    for empty in (torch.full_like(luma, 0.5), 1 - luma):
        assert energy(empty, luma, luma, information=1).item() == pytest.approx(2, abs=0.02)
    assert energy(thermal, luma, thermal, information=1) < 1.1


# the whole


def test_one_picture_as_both_sources_is_its_own_fusion(pair):
    """All terms vanish but correlation, which differences of equal pictures do not have, and what copying loses."""
    luma = pair[0]
    exact = {"light": 1, "gradient": 1, "structure": 1}
    assert energy(luma, luma, luma, Latent(addition=0.0), **exact).item() == pytest.approx(0, abs=1e-4)
    full = Likelihood(luma, luma, Latent(addition=0.0)).energy
    for other in (
        pair[1],
        1 - luma,
        torch.full_like(luma, 0.5),
        (luma + 0.1 * noise(*luma.shape)).clamp(0, 1),
    ):
        assert full(luma) < full(other)


def test_the_energy_is_the_weighted_sum_of_its_terms(pair):
    fused, latent = noise(*pair[0].shape), draw_latent(pair[0].shape[-2:], np.random.default_rng(0))
    weights = {name: index + 0.5 for index, name in enumerate(TERMS)}
    terms = {name: energy(fused, *pair, latent, **{name: 1}) for name in TERMS}
    assert all(term > 0.01 for term in terms.values())
    total = sum(weights[name] * terms[name] for name in TERMS)
    torch.testing.assert_close(energy(fused, *pair, latent, **weights), total)


def test_gradients_are_finite_on_flat_black_and_white_images():
    flats = torch.tensor([0, 0.5, 1])[:, None, None, None].repeat(1, 1, 32, 32)
    for sources in ((flats, flats), (flats, flats.flip(0)), (noise(3, 1, 32, 32), flats)):
        fused = flats.clone().requires_grad_()
        value = Likelihood(*sources).energy(fused)
        value.sum().backward()
        assert value.isfinite().all() and fused.grad.isfinite().all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(28, 60), st.integers(28, 60))
def test_the_energy_of_one_does_not_depend_on_its_companions(seed, height, width):
    fused, luma, thermal = noise(3, 3, 1, height, width, seed=seed)
    rng = np.random.default_rng(seed)
    latent = Latent(
        *(torch.cat(f) for f in zip(*(draw_latent((height, width), rng) for _ in range(3)), strict=True))
    )
    together = Likelihood(luma, thermal, latent).energy(fused)
    assert together.shape == (3,)
    for i in range(3):
        one = slice(i, i + 1)
        own = Latent(latent.addition[one], latent.favour[one])
        alone = Likelihood(luma[one], thermal[one], own).energy(fused[one])
        torch.testing.assert_close(alone, together[one], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("term", "metric"),
    [("gradient", "Qabf"), ("structure", "SSIM"), ("correlation", "SCD"), ("information", "VIF")],
)
def test_going_down_a_term_goes_up_its_metric(pair, textures, term, metric):
    start = classical.average(*textures)
    fused = to_tensor(start).requires_grad_()
    optimiser = torch.optim.Adam([fused], 0.01)
    for _ in range(15):
        optimiser.zero_grad()
        energy(fused, *pair, **{term: 1}).sum().backward()
        optimiser.step()
    result = fused.detach().clamp(0, 1)[0, 0].numpy() * 255
    assert fusion_metrics.METRICS[metric](result, *textures) > 1.01 * fusion_metrics.METRICS[metric](
        start, *textures
    )


# latent fields


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 200), st.integers(20, 200))
def test_latent_fields_are_smooth_of_the_pictures_size_and_of_the_generator_alone(seed, height, width):
    size = height, width
    latent = draw_latent(size, np.random.default_rng(seed))
    again = draw_latent(size, np.random.default_rng(seed))
    for one, other in zip(latent, again, strict=True):
        assert one.shape == (1, 1, *size) and torch.equal(one, other)
    assert latent.addition.min() >= 0 and latent.addition.max() <= 1
    for axis, extent in ((2, height), (3, width)):  # it may go from 0 to 1 over a cell, not faster
        cell_px = extent / max(2, round(extent / likelihood.LATENT_CELL_PX))
        assert latent.addition.diff(dim=axis).abs().max() <= 1 / cell_px + EPS


def test_latent_fields_differ_between_draws_as_far_as_stated():
    draws = [draw_latent((64, 64), np.random.default_rng(seed)) for seed in range(200)]
    additions, favours = (torch.stack([f[0, 0, 0, 0] for f in of_all]) for of_all in zip(*draws, strict=True))
    assert additions.mean().item() == pytest.approx(0.5, abs=0.1)
    assert additions.std().item() == pytest.approx(12**-0.5, rel=0.15)  # uniform, at the corner of a cell
    assert favours.mean().item() == pytest.approx(0, abs=0.3 * likelihood.FAVOUR_DEVIATION)
    assert favours.std().item() == pytest.approx(likelihood.FAVOUR_DEVIATION, rel=0.15)
