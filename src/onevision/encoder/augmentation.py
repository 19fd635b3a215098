"""Augmentation of pictures: mirrored, shifted, scaled and turned a little, as shoppers hold their phones.

Without it the encoder learns its training photos by heart, and the generator, which sees their vectors, learns from
photos that are easier than any it will meet. A trained encoder looks at a picture and at one fixed copy of it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SHIFT = 0.125
"""A picture is shifted by up to this share of its side, both ways."""
SCALE = 1.16
"""It is scaled by at most this factor, up or down."""
TURN = np.deg2rad(10)
"""It is turned by up to this angle, both ways."""


def draw_moves(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random affine maps (count, 2, 3): from a place in the moved picture to one in the original, in [-1, 1]."""
    mirrored = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    scale = np.exp(rng.uniform(-np.log(SCALE), np.log(SCALE), count))
    angle = rng.uniform(-TURN, TURN, count)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    shift = rng.uniform(-2 * SHIFT, 2 * SHIFT, (2, count))
    rows = np.array([[mirrored * cosine, -sine, shift[0]], [mirrored * sine, cosine, shift[1]]])
    return rows.transpose(2, 0, 1).astype(np.float32)


def move(pixels: Tensor, moves: Tensor) -> Tensor:
    """Pictures (N, S, S, 3) uint8 moved by maps (N, 2, 3), their edges repeated; the same shape and type."""
    channels_first = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(moves, list(channels_first.shape), align_corners=False)
    moved = F.grid_sample(channels_first, grid, padding_mode="border", align_corners=False)
    return moved.round_().to(torch.uint8).permute(0, 2, 3, 1)


def second_look(pixels: Tensor) -> Tensor:
    """Pictures (N, S, S, 3) uint8 mirrored, and enlarged so that a sixteenth is cut off each side; the same shape."""
    size = pixels.shape[1]
    cut = size // 16
    middle = pixels[:, cut : size - cut, cut : size - cut].flip(2).permute(0, 3, 1, 2)
    enlarged = F.interpolate(middle.float(), (size, size), mode="bilinear")
    return enlarged.round_().to(torch.uint8).permute(0, 2, 3, 1)
