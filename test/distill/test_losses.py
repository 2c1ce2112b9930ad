"""The two signals of distillation on ensembles whose statistics are known by construction."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionproxy_ros.distill.ensemble import summarise
from fusionproxy_ros.distill.losses import certainty, feature_loss, identity_loss, pixel_loss, routed

SIZE = (24, 30)
patient = settings(deadline=None, max_examples=50)  # the machine may be busy
LEVELS = st.floats(0, 6e4, width=32)  # what float16 holds
VARIANCES = arrays(np.float32, (2, 1, 6, 8), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)


def constant(level):
    return torch.full((2, 1, *SIZE), level)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def disagreement():
    """Of samples that agree but for 3x3 pixels, where half are black and half white: (mean, variance), (1, 1, H, W)."""
    samples = np.full((8, *SIZE), 0.4, np.float32)
    samples[::2, 10:13, 10:13], samples[1::2, 10:13, 10:13] = 0, 1
    source = np.zeros(SIZE, np.uint8)
    ensemble = summarise("id", source, source, samples, None)
    return ensemble.mean.float()[None, None], ensemble.variance.float()[None, None]


# pixels, weighted


def test_samples_that_contradict_each_other_do_not_bind(disagreement):
    mean, variance = disagreement
    weight = certainty(variance)
    assert weight[..., 10:13, 10:13].max() < 1e-6
    assert (weight[variance == 0] > 1).all()
    fused = torch.zeros_like(mean).requires_grad_()
    pixel_loss(fused, mean, weight).backward()
    assert fused.grad[..., 10:13, 10:13].abs().max() < 1e-6 * fused.grad.abs().max()


def test_the_weight_is_the_documented_one():
    """Half of the picture with no variance, half with twice the mean: exp(0) and exp(-2) before the division."""
    variance = torch.zeros(1, 1, 8, 8)
    variance[..., 4:] = 0.02
    total = (1 + np.exp(-2)) / 2
    weight = certainty(variance)
    torch.testing.assert_close(weight[..., :4], torch.full((1, 1, 8, 4), 1 / total, dtype=torch.float32))
    torch.testing.assert_close(weight[..., 4:], torch.full((1, 1, 8, 4), np.exp(-2) / total).float())


@patient
@given(VARIANCES)
def test_weights_have_mean_one_in_each_picture_and_fall_with_variance(variance):
    weight = certainty(variance)
    assert (weight >= 0).all() and weight.isfinite().all()
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(2), atol=1e-5, rtol=0)
    for one, of_one in zip(weight, variance, strict=True):
        assert (one.flatten()[of_one.flatten().argsort()].diff() <= 1e-6).all()


@patient
@given(LEVELS)
def test_constant_variance_is_plain_l1(level):
    fused, mean = random(2, 2, 1, *SIZE)
    plain = pixel_loss(fused, mean)
    for rounded in (constant(level), constant(level).half().float()):
        weight = certainty(rounded)
        torch.testing.assert_close(weight, torch.ones_like(weight), atol=1e-6, rtol=0)
        torch.testing.assert_close(pixel_loss(fused, mean, weight), plain, atol=0, rtol=1e-6)


def test_no_variance_at_all_is_plain_l1_bit_for_bit():
    fused, mean = random(2, 2, 1, *SIZE)
    assert torch.equal(pixel_loss(fused, mean, certainty(constant(0.0))), (fused - mean).abs().mean())


def test_one_picture_of_a_batch_does_not_change_the_weights_of_another(disagreement):
    _, variance = disagreement
    both = certainty(torch.cat([variance, 100 * random(1, 1, *SIZE)]))
    torch.testing.assert_close(both[:1], certainty(variance))


# features, routed


@patient
@given(LEVELS, st.integers(1, 40), st.integers(1, 40))
def test_constant_variance_is_routed_everywhere(level, height, width):
    variance = torch.full((1, 1, height, width), level)
    assert routed(variance).all()
    assert routed(variance.half().float()).all()


@patient
@given(VARIANCES)
def test_what_varies_no_more_than_the_average_is_routed(variance):
    route = routed(variance)
    mean = variance.mean((2, 3), keepdim=True).expand_as(variance)
    assert (route[variance <= mean] == 1).all()
    assert (route[variance > 1.01 * mean] == 0).all()
    assert route.flatten(1).any(1).all(), "every picture has something at or below its average"


def test_features_are_pulled_only_where_they_are_routed():
    route = {"a": torch.zeros(2, 1, 6, 8), "b": torch.zeros(2, 1, 3, 4)}
    route["a"][..., 2:4, 3:] = 1
    route["b"][1, :, 0] = 1
    wanted = {layer: random(2, 5, *r.shape[2:], seed=1) for layer, r in route.items()}
    fused = {layer: random(2, 5, *r.shape[2:], seed=2).requires_grad_() for layer, r in route.items()}
    feature_loss(fused, wanted, route).backward()
    for layer, r in route.items():
        inside = r.bool().expand_as(fused[layer])
        assert (fused[layer].grad[inside] != 0).all()
        assert (fused[layer].grad[~inside] == 0).all()


def test_the_student_is_aligned_where_backbones_agree_also_where_pixels_disagree(disagreement):
    """The two signals are of two variances: pixel weights say nothing about the route."""
    mean, of_pixels = disagreement
    of_features = torch.zeros_like(of_pixels)
    of_features[..., 0] = 1  # the backbone is undecided elsewhere than the pixels
    fused = (mean + 0.1).requires_grad_()
    feature_loss({"a": fused}, {"a": mean}, {"a": routed(of_features)}).backward()
    assert (fused.grad[..., 10:13, 10:13] != 0).all() and (fused.grad[..., 0] == 0).all()


@patient
@given(st.floats(2**-10, 1e3, width=32))
def test_constant_feature_variance_is_the_plain_feature_loss(level):
    wanted = {"a": random(2, 4, 6, 8, seed=1), "b": random(2, 7, 3, 4, seed=2)}
    fused = {layer: target + random(*target.shape, seed=3) for layer, target in wanted.items()}
    route = {layer: routed(torch.full_like(target[:, :1], level)) for layer, target in wanted.items()}
    assert torch.equal(feature_loss(fused, wanted, route), feature_loss(fused, wanted))


def test_the_feature_loss_is_the_mean_over_layers_of_relative_squared_error():
    wanted = {"a": torch.full((1, 4, 6, 8), 2.0), "b": torch.full((1, 3, 3, 4), 10.0)}
    fused = {"a": wanted["a"] + 1, "b": wanted["b"] - 2}
    assert feature_loss(fused, wanted).item() == pytest.approx((1 / 4 + 4 / 100) / 2)
    nowhere = {"a": torch.ones(1, 1, 6, 8), "b": torch.zeros(1, 1, 3, 4)}
    assert feature_loss(fused, wanted, nowhere).item() == pytest.approx((1 / 4 + 0) / 2)


def test_the_error_is_relative_to_the_power_of_what_is_routed():
    wanted, route = torch.full((1, 4, 6, 8), 2.0), torch.ones(1, 1, 6, 8)
    wanted[..., 4:], route[..., 4:] = 10, 0
    loss = feature_loss({"a": wanted + 1}, {"a": wanted}, {"a": route})
    assert loss.item() == pytest.approx(1 / 4)


@patient
@given(st.floats(0.1, 1e3))
def test_the_scale_of_a_layer_cancels(scale):
    wanted, fused = ({"a": random(2, 4, 6, 8, seed=seed)} for seed in (1, 2))
    scaled = [{"a": scale * features["a"]} for features in (fused, wanted)]
    torch.testing.assert_close(feature_loss(*scaled), feature_loss(fused, wanted))


# identity


def test_identity_asks_for_luma():
    luma = random(2, 1, *SIZE)
    assert identity_loss(luma, luma) == 0
    assert identity_loss(luma + 0.25, luma).item() == pytest.approx(0.25)
