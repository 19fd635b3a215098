"""Dropout that costs little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 256
"""Probabilities are multiples of 1 / 256: one random byte decides on an element."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""As many bytes as a floating-point number has."""


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
    integer = INTEGERS[like.itemsize]
    scale = torch.tensor(STEPS / (STEPS - dropped), dtype=like.dtype).view(integer)
    words = torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    number = words.view(torch.uint8)[: like.numel()].to(integer)
    # The sign, in all bits: 1 where dropped. What turns booleans into floats takes three times as long.
    sign = number.sub_(dropped).bitwise_right_shift_(8 * like.itemsize - 1)
    return sign.bitwise_not_().bitwise_and_(scale).view(like.dtype).view(like.shape)


def dropped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float, *, causal: bool
) -> Tensor:
    """`F.scaled_dot_product_attention` with dropout of weights, which on a CPU draws a number for each of them too.

    Args:
        query: (B, heads, Q, e); key, value: (B, heads, S, e); mask: (B, 1, 1, S) bool, something to attend to for each.
    """
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    weight = logits.softmax(-1)
    return (weight * dropout_mask(weight, p)) @ value
