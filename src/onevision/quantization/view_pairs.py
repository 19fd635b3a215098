"""Which training pictures show one product: what VRQ learns to agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class ViewPairs:
    """Training pairs: two pictures of one product, and what they show.

    Attributes:
        u, v: (P,) rows of the embedding table.
        product: (P,) product numbers.
        category: (P,) category numbers of the products, from 0; None where they are not known.
    """

    u: NDArray[np.int64]
    v: NDArray[np.int64]
    product: NDArray[np.int64]
    category: NDArray[np.int64] | None = None

    def agreeing(self, codes: NDArray[np.int64]) -> ViewPairs:
        """The pairs both of whose pictures have one code; codes (N,)."""
        return self.chosen(codes[self.u] == codes[self.v])

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> ViewPairs:
        """Some of the pairs, by mask or by number."""
        category = None if self.category is None else self.category[rows]
        return ViewPairs(self.u[rows], self.v[rows], self.product[rows], category)
