"""Tokens that are looked at stay, and what is left becomes one: the rule of the image tower and of the generator.

The papers prune tokens dynamically and leave the rule open; this rule is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

KeepRule = Callable[[Tensor], Tensor]
"""Attention mass on tokens (B, T) -> tokens to keep (B, T) bool."""


def keep_by_mass(mass: Tensor, share: float, fewest: int = 1, most: int | None = None) -> Tensor:
    """Smallest set of tokens that holds this share of the mass (B, T), as a mask (B, T) bool.

    Ties go to the earlier token, so the set is deterministic.

    Args:
        fewest, most: bounds of the set's size; `fewest` is the stronger.
    """
    part, order = (mass / mass.sum(1, keepdim=True).clamp_min(1e-9)).sort(dim=1, descending=True, stable=True)
    before = part.cumsum(1) - part
    rank = torch.arange(mass.shape[1], device=mass.device)
    wanted = (before < share) | (rank < fewest)
    if most is not None:
        wanted &= rank < max(most, fewest)
    return torch.zeros_like(wanted).scatter_(1, order, wanted)


def merge_dropped(tokens: Tensor, mass: Tensor, keep: Tensor, there: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compact the kept tokens to the left and append the mean, weighted by mass, of those dropped.

    Args:
        tokens: (B, T, d); mass: (B, T); keep: (B, T) bool.
        there: (B, T) bool, which tokens are no padding, whatever stands in that; by default all.

    Returns:
        tokens (B, k + 1, d) and mask (B, k + 1), k the largest count kept in the batch; where nothing was dropped the
        merged token is masked out.
    """
    widest = int(keep.sum(1).max())
    order = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :widest]
    kept = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
    dropped = ~keep if there is None else there & ~keep
    weight = mass.masked_fill(~dropped, 0)
    tokens = tokens if there is None else tokens.masked_fill(~there[..., None], 0)
    total = weight.sum(1, keepdim=True)
    merged = torch.einsum("bt,btd->bd", weight / total.clamp_min(1e-9), tokens)
    mask = torch.cat([keep.gather(1, order), dropped.any(1, keepdim=True)], 1)
    return torch.cat([kept, merged[:, None]], 1), mask
