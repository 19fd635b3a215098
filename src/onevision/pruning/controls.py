"""Controls for pruning at equal size: if these are as good, attention says nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.attention_mass import KeepRule


def top_k(count: int) -> KeepRule:
    """The same number of tokens for every picture, by attention mass."""

    def rule(mass: Tensor) -> Tensor:
        order = mass.argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.zeros_like(mass, dtype=torch.bool).scatter_(1, order, True)

    return rule


def random_k(count: int, seed: int) -> KeepRule:
    """Random tokens, other ones for every picture."""
    generator = torch.Generator().manual_seed(seed)

    def rule(mass: Tensor) -> Tensor:
        order = torch.rand(mass.shape, generator=generator).argsort(dim=1)[:, :count]
        return torch.zeros_like(mass, dtype=torch.bool).scatter_(1, order, True)

    return rule


def centre_crop(count: int) -> KeepRule:
    """The tokens nearest to the middle of the grid."""

    def rule(mass: Tensor) -> Tensor:
        side = round(mass.shape[1] ** 0.5)
        place = torch.arange(mass.shape[1])
        middle = (side - 1) / 2
        distance = (place // side - middle) ** 2 + (place % side - middle) ** 2
        keep = torch.zeros(mass.shape[1], dtype=torch.bool)
        keep[distance.argsort(stable=True)[:count]] = True
        return keep.expand_as(mass).clone()

    return rule
