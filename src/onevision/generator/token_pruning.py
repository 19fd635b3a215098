"""What a search may leave out: image tokens that are not looked at, and codes that decide nothing any more.

Image tokens are pruned by attention mass: keep what is looked at, merge the rest into one token. Beams stop writing
where their branches hold few items already (`decoding.beam`).

The paper prunes tokens dynamically and leaves the rule open; this rule is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from onevision.config import Section


class PruningSetting(Section):
    """What is served with less work.

    `mass`: share of the attention on image tokens that must be kept, 1 for all tokens; `min_tokens`, `max_tokens`:
    bounds of their count; `open_below`: a query stops writing when the branches of its beams hold at most so many
    semantic IDs, None for never; `margin`: beams that are behind their query's best by more nats are given up, None for
    none; `history`: newest items of each history that the prompt holds, None for as many as the model reads.
    """

    mass: float = Field(1.0, gt=0, le=1)
    min_tokens: int = Field(2, ge=1)
    max_tokens: int = Field(64, ge=1)
    open_below: int | None = Field(None, ge=1)
    margin: float | None = Field(None, gt=0)
    history: int | None = Field(None, ge=1)

    @property
    def keep(self) -> KeepRule | None:
        """The rule for image tokens; None where all are read."""
        return None if self.mass == 1 else lambda mass: keep_by_mass(mass, self)


KeepRule = Callable[[Tensor], Tensor]
"""Attention mass on image tokens (B, T) -> tokens to keep (B, T) bool."""


def keep_by_mass(mass: Tensor, setting: PruningSetting) -> Tensor:
    """Smallest set of tokens that holds `setting.mass` of the mass (B, T), as a mask (B, T) bool.

    Ties go to the earlier token, so the set is deterministic.
    """
    share, order = (mass / mass.sum(1, keepdim=True)).sort(dim=1, descending=True, stable=True)
    before = share.cumsum(1) - share
    rank = torch.arange(mass.shape[1], device=mass.device)
    wanted = (before < setting.mass) | (rank < setting.min_tokens)
    wanted &= rank < max(setting.max_tokens, setting.min_tokens)
    return torch.zeros_like(wanted).scatter_(1, order, wanted)


def merge_dropped(tokens: Tensor, mass: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Compact the kept tokens to the left and append the mean, weighted by mass, of those dropped.

    Args:
        tokens: (B, T, d); mass: (B, T); keep: (B, T) bool.

    Returns:
        tokens (B, k + 1, d) and mask (B, k + 1), k the largest count kept in the batch; where nothing was dropped the
        merged token is masked out.
    """
    widest = int(keep.sum(1).max())
    order = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :widest]
    kept = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
    weight = mass.masked_fill(keep, 0)
    total = weight.sum(1, keepdim=True)
    merged = torch.einsum("bt,btd->bd", weight / total.clamp_min(1e-9), tokens)
    mask = torch.cat([keep.gather(1, order), ~keep.all(1, keepdim=True)], 1)
    return torch.cat([kept, merged[:, None]], 1), mask
