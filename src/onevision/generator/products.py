"""Products of queries with rows of a table, in whichever of two ways is faster."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from onevision.packing import PackedLinear

GATHERING_COST = 3
"""To gather a vector takes a query by itself as long as so many products with vectors that lie together; of B queries,
which read those together, as long as B to the power of 3/5 times so many."""


class VectorTable:
    """Vectors (N, d) that queries are multiplied with, a few rows or many at once."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def products(self, rows: Tensor, queries: Tensor) -> Tensor:
        """Products (B, ...) of the vectors of rows (B, ...) with queries (B, d).

        Of a table that is small beside them all products are worked out, which is faster than to gather the vectors.
        """
        flat = rows.flatten(1)
        if len(self.vectors) > GATHERING_COST * len(rows) ** (3 / 5) * flat.shape[1]:
            return self.gathered(flat, queries).view(rows.shape)
        every: Tensor = self._packed(queries)
        return every.gather(1, flat).view(rows.shape)

    def gathered(self, rows: Tensor, queries: Tensor) -> Tensor:
        """Products (B, C) of the vectors of rows (B, C) with queries (B, d), or (B, C, n) with n queries (B, d, n).

        What one query reads stays in the cache; and `index_select` copies vectors whole, indexing number by number.
        """
        each = [self.vectors.index_select(0, row) @ query for row, query in zip(rows, queries, strict=True)]
        return torch.stack(each)

    @cached_property
    def _packed(self) -> PackedLinear:
        """A second copy, made when it is first needed: of tables that are small beside what is asked of them."""
        return PackedLinear(self.vectors)
