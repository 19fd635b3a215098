"""Reward levels of items for a search (OneSearch).

ordered 2.0 > carted, or ordered elsewhere 1.5 > clicked 1.0 > shown and not clicked 0.5 > same category, not shown 0.2
> anything else 0. Elsewhere: not in this search but before it, and of the category that this search is for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.features.queries import QuerySet
from onevision.semantic_ids.catalogue import Catalogue

ORDERED, CARTED, ORDERED_ELSEWHERE, CLICKED, SHOWN, SAME_CATEGORY, OTHER = 2.0, 1.5, 1.5, 1.0, 0.5, 0.2, 0.0
LEVELS = {"ordered": ORDERED, "carted": CARTED, "clicked": CLICKED, "shown": SHOWN}
"""Of what came of an item in the search, highest first."""


def levels_of(queries: QuerySet, row: int, number: dict[str, int]) -> dict[int, float]:
    """Level by item number of what a search showed and what came of it: highest first, equal ones as they came.

    Args:
        number: item id -> item number; what has none is left out.
    """
    levels: dict[int, float] = {}
    for outcome, level in LEVELS.items():
        for item in getattr(queries, outcome)[row]:
            if item in number:
                levels.setdefault(number[item], level)
    return levels


def gains_of(queries: QuerySet, items: NDArray[np.int64], catalogue: Catalogue) -> NDArray[np.float32]:
    """(Q, C) levels of what was clicked, carted or ordered in each search, among its items (Q, C); 0 for the others."""
    number = catalogue.numbers()
    gains = np.zeros(items.shape, np.float32)
    for row in range(len(queries)):
        for item, level in levels_of(queries, row, number).items():
            if level >= CLICKED:
                gains[row, items[row] == item] = level
    return gains
