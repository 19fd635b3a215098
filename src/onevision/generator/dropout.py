"""Dropout that costs little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 256
"""Probabilities are multiples of 1 / 256: one random byte decides on an element."""


class Dropout(nn.Dropout):
    """As `torch.nn.Dropout`, with eight elements decided by one random number.

    On a CPU the latter draws a number for every element, one after the other, which was a third of a training step of
    the generator. On other devices it is the very same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Some of x at random, the rest 0, scaled so that the mean is kept."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        return x * dropout_mask(x, self.p)


def dropout_mask(like: Tensor, p: float) -> Tensor:
    """A tensor like `like`: 0 with a probability of `p` rounded to 1 / 256, elsewhere 1 / (1 - p)."""
    dropped = round(p * STEPS)
    words = torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    kept = words.view(torch.uint8)[: like.numel()] >= dropped
    return kept.to(like.dtype).mul_(STEPS / (STEPS - dropped)).view(like.shape)
