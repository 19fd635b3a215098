"""What a search keeps while it writes: of the prompt, once a query, and of the codes that beams have written."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Memory(NamedTuple):
    """What the decoder reads: what each layer made of the context (`read`), mask (B, S), and the point z (B, d).

    `kept` (B,) counts image tokens that were kept, `category_logits` (B, K) guess the product's category.
    """

    keys_values: list[tuple[Tensor, ...]]
    mask: Tensor
    point: Tensor
    kept: Tensor
    category_logits: Tensor

    def take(self, rows: Tensor) -> Memory:
        """The queries of these rows."""
        read = [tuple(value[rows] for value in layer) for layer in self.keys_values]
        return Memory(read, *(value[rows] for value in self[1:]))


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
