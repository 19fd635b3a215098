"""Dense nearest neighbours: exact inner products by faiss, where an item's best view speaks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2_000_000
"""Views found at once, of all queries together (24 MB as faiss gives them)."""


class DenseSearch:
    """Exact search (`faiss.IndexFlatIP`) over all catalogue views of `items` items.

    Args:
        view_embedding: (V, d), unit length.
        view_item: (V,) item row of each view; an item without a view is never found.
    """

    def __init__(self, view_embedding: NDArray[np.float32], view_item: NDArray[np.int64], items: int) -> None:
        import faiss

        self._owner = np.asarray(view_item, dtype=np.int64)
        self._items = items
        self._index: Any = faiss.IndexFlatIP(view_embedding.shape[1])
        self._index.add(np.ascontiguousarray(view_embedding, dtype=np.float32))

    def search(
        self, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` nearest items of each query (Q, d), among all or among those `allowed` (I,).

        Returns:
            item rows (Q, k) int64, best first, ties to the smaller row, -1 where there are no more; and their
            similarities (Q, k) float32, -inf there.
        """
        rows = np.full((len(query), k), -1, dtype=np.int64)
        scores = np.full((len(query), k), -np.inf, dtype=np.float32)
        some = None if allowed is None else allowed[self._owner]
        there = len(self._owner) if some is None else int(some.sum())
        # As many views as k items have on average; twice as many where these are of fewer items.
        views = k * -(-len(self._owner) // self._items) + 1
        left = np.arange(len(query) if there else 0)
        while len(left):
            views = min(views, there)
            unsure = [left[:0]]
            for part in np.array_split(left, len(left) * views // _BLOCK + 1):
                score, view = self._nearest_views(query[part], views, some)
                item, best = _best_of_items(self._owner[view], score)
                found = min(k, views)
                rows[part, :found], scores[part, :found] = item[:, :k], best[:, :k]
                # An item that was not found may be as near as the last view, and have a smaller row.
                if views < there:
                    unsure.append(part[best[:, k - 1] <= score[:, -1]])
            left = np.concatenate(unsure)
            views *= 2
        return rows, scores

    def _nearest_views(
        self, query: NDArray[np.float32], views: int, some: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and numbers (Q, views) of the nearest views, of all or of `some` (V,), nearest first."""
        import faiss

        parameters = None
        if some is not None:  # faiss declares the arguments of C++; the selector must outlive the parameters
            selector = faiss.IDSelectorBitmap(np.packbits(some, bitorder="little"))  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        score, view = self._index.search(np.ascontiguousarray(query, dtype=np.float32), views, params=parameters)
        return score, view


def _best_of_items(
    owner: NDArray[np.int64], score: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Items (Q, n), best first, and their largest scores, from views (Q, n) of them, best first; -1 and -inf behind."""
    by_item = np.argsort(owner, axis=1, kind="stable")  # an item's best view stays its first
    owner, score = np.take_along_axis(owner, by_item, axis=1), np.take_along_axis(score, by_item, axis=1)
    again = owner[:, 1:] == owner[:, :-1]
    score[:, 1:][again], owner[:, 1:][again] = -np.inf, -1
    order = np.argsort(-score, axis=1, kind="stable")
    return np.take_along_axis(owner, order, axis=1), np.take_along_axis(score, order, axis=1)
