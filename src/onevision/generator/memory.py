"""What a search keeps while it writes: of the prompt, once a query, and of the codes that beams have written."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from onevision.attention_mass import KeepRule, merge_dropped

Prunable = Literal["image", "history", "both"]
"""Which tokens of a prompt may leave."""


class Memory(NamedTuple):
    """What the decoder reads: what each layer made of the context (`read`), mask (B, S), and the point z (B, d).

    A layer makes tensors (B, heads, S, ...) of it that are affine in the context; those without a fourth dimension are
    added to the logits of attention, and are -inf where the mask is False.

    `kept` (B,) counts image tokens that the encoder kept, `history` (B,) tokens of the histories; `category_logits`
    (B, K) guess the product's category; `prunable` are the columns of tokens that may leave.
    """

    keys_values: list[tuple[Tensor, ...]]
    mask: Tensor
    point: Tensor
    kept: Tensor
    history: Tensor
    category_logits: Tensor
    prunable: slice

    def take(self, rows: Tensor) -> Memory:
        """The queries of these rows."""
        read = [tuple(value[rows] for value in layer) for layer in self.keys_values]
        mask, point, kept, history, category_logits = (value[rows] for value in self[1:-1])
        return Memory(read, mask, point, kept, history, category_logits, self.prunable)

    def shorten(self, mass: Tensor, rule: KeepRule) -> Memory:
        """The same queries with fewer tokens in their context: those that a rule does not keep become one.

        Nothing is read again: the merged token is a mean, and what layers made of the context is affine in it.

        Args:
            mass: (B, S) attention on the context.
        """
        span, there = self.prunable, self.mask[:, self.prunable]
        mass = mass[:, span]
        keep = rule(mass) & there
        own = merge_dropped(mass[..., None], mass, keep, there)[1]
        mask = splice(self.mask, span, own)

        def fewer(value: Tensor) -> Tensor:
            tokens = value[:, :, span].transpose(1, 2)
            merged, _ = merge_dropped(tokens.flatten(2).float(), mass, keep, there)
            merged = merged.to(value.dtype).unflatten(2, tokens.shape[2:]).transpose(1, 2)
            value = splice(value, span, merged, dim=2)
            return value if value.ndim == 4 else value.masked_fill(~mask[:, None], -torch.inf)

        read = [tuple(fewer(value) for value in layer) for layer in self.keys_values]
        return self._replace(keys_values=read, mask=mask, prunable=slice(span.start, span.start + own.shape[1]))


def splice(whole: Tensor, span: slice, part: Tensor, dim: int = 1) -> Tensor:
    """`part` in place of the columns `span` of a dimension."""
    before, after = whole.narrow(dim, 0, span.start), whole.narrow(dim, span.stop, whole.shape[dim] - span.stop)
    return torch.cat([before, part, after], dim)


class Past(NamedTuple):
    """What beams have written, as keys and values that stay where they are while beams come and go.

    `banks`: for each layer (R, 2 d), rows of all codes so far; `path` (B, W, l): the rows of each beam's own codes.
    """

    banks: list[Tensor]
    path: Tensor

    def follow(self, parent: Tensor) -> Past:
        """The past of beams (B, W') that continue the beams `parent`."""
        return Past(self.banks, self.path.gather(1, parent[..., None].expand(-1, -1, self.path.shape[2])))

    def take(self, rows: Tensor) -> Past:
        """The past of the queries of these rows."""
        return Past(self.banks, self.path[rows])
