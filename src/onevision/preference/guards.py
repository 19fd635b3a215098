"""Guards: pairs of a winner and a mistake near the top, whatever the shopper's taste.

Preferences are learnt from what moves, how shoppers are read; alone they make ever more of taste and less of the photo.
Guards hold the first places to the photo: of the parent's first items that the search did not show, the visual guard is
of those less like the photo than the winner is, by a margin, and the category guard of those in another category. What
was shown is judged by what came of it, as a loser (`lists`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.features.queries import QuerySet
from onevision.preference.config import PreferenceConfig
from onevision.preference.levels import levels_of
from onevision.semantic_ids.catalogue import Catalogue


def guarded_items(
    queries: QuerySet,
    winner: NDArray[np.int64],
    own_items: NDArray[np.int64],
    catalogue: Catalogue,
    config: PreferenceConfig,
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Guarded items (N, G) of N searches, -1 for none, and how many pairs each guard makes.

    Args:
        winner: (N,) items.
        own_items: (N, k) the parent's ranked items, -1 for none; the first `guard_places` are looked at.
    """
    own = own_items[:, : config.guard_places]
    category = np.array(catalogue.table["category_id"].to_pylist(), dtype=object)
    cosine = np.einsum("ngd,nd->ng", catalogue.embedding[own], queries.embedding)
    winners = np.einsum("nd,nd->n", catalogue.embedding[winner], queries.embedding)
    mistake = (own >= 0) & ~_of_the_search(queries, own, catalogue)
    mistake &= catalogue.bucket[own] != catalogue.bucket[winner][:, None]
    unlike = mistake & (cosine < winners[:, None] - config.visual_guard_margin)
    elsewhere = mistake & (category[own] != category[winner][:, None]) & config.category_guard
    counts = {"guards_visual": int(unlike.sum()), "guards_category": int(elsewhere.sum())}
    return np.where(unlike | elsewhere, own, -1), counts


def _of_the_search(queries: QuerySet, items: NDArray[np.int64], catalogue: Catalogue) -> NDArray[np.bool_]:
    """(N, G) which of the items the search showed, or led to."""
    number = catalogue.numbers()
    there = np.zeros(items.shape, bool)
    for row in range(len(queries)):
        there[row] = np.isin(items[row], list(levels_of(queries, row, number)))
    return there
