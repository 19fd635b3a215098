"""Products of one vector a query with rows of a table, in whichever of two ways is faster."""

from __future__ import annotations

from torch import Tensor

GATHERING_COST = 6
"""To gather a vector takes a query by itself as long as so many products with vectors that lie together; of B queries,
which read those together, as long as B to the power of 2/3 times so many."""


def products(vectors: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
    """Products (B, ...) of the vectors (N, d) of rows (B, ...) with queries (B, d).

    Of a small table all products are worked out, which is faster than to gather the vectors.
    """
    if len(vectors) <= GATHERING_COST * len(rows) ** (2 / 3) * rows[0].numel():
        return (queries @ vectors.T).gather(1, rows.flatten(1)).view(rows.shape)
    return (vectors[rows.flatten(1)] @ queries[:, :, None]).view(rows.shape)
