"""Products of queries with rows of a table, in whichever of two ways is faster."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.quantization.gemm import fast_matmul

GATHERING_COST = 2
"""To gather a vector takes a query by itself as long as so many products with vectors that lie together; of B queries,
which read those together, as long as B to the power of 2/3 times so many."""


def products(vectors: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
    """Products (B, ...) of the vectors (N, d) of rows (B, ...) with queries (B, d).

    Of a small table all products are worked out, which is faster than to gather the vectors.
    """
    flat = rows.flatten(1)
    if len(vectors) > GATHERING_COST * len(rows) ** (2 / 3) * flat.shape[1]:
        return gathered_products(vectors, flat, queries).view(rows.shape)
    with fast_matmul():
        every = queries @ vectors.T
    return every.gather(1, flat).view(rows.shape)


def gathered_products(vectors: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
    """Products (B, C) of the vectors (N, d) of rows (B, C) with queries (B, d), or (B, C, n) with n queries (B, d, n).

    What one query reads stays in the cache; and `index_select` copies vectors whole, `vectors[rows]` by their numbers.
    """
    return torch.stack([vectors.index_select(0, row) @ query for row, query in zip(rows, queries, strict=True)])
