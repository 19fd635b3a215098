"""Dense nearest neighbours: exact cosine search where an item's best view speaks for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_FLOATS = 16_000_000
"""Similarities held at once (64 MB), whatever the size of the catalogue."""


class DenseSearch:
    """Exact search over all catalogue views of `items` items.

    Args:
        view_embedding: (V, d), unit length.
        view_item: (V,) item row of each view; an item without a view is never found.
    """

    def __init__(self, view_embedding: NDArray[np.float32], view_item: NDArray[np.int64], items: int) -> None:
        order = np.argsort(view_item, kind="stable")
        self._views = np.ascontiguousarray(view_embedding[order], dtype=np.float32)
        self._owners, self._starts = np.unique(view_item[order], return_index=True)
        self._items = items

    def similarity(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Largest cosine similarity of each query (Q, d) with any view of each item, (Q, I)."""
        best = np.maximum.reduceat(query.astype(np.float32) @ self._views.T, self._starts, axis=1)
        if len(self._owners) == self._items:
            return best
        out = np.full((len(query), self._items), -np.inf, dtype=np.float32)
        out[:, self._owners] = best
        return out

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
        there = len(self._owners) if allowed is None else int(allowed[self._owners].sum())
        block = max(1, _BLOCK_FLOATS // max(len(self._views), 1))
        for start in range(0, len(query) if there else 0, block):
            best = self.similarity(query[start : start + block])
            if allowed is not None:
                best[:, ~allowed] = -np.inf
            top = _largest(best, min(k, there))
            found = slice(start, start + len(best)), slice(0, top.shape[1])
            rows[found] = top
            scores[found] = np.take_along_axis(best, top, axis=1)
        return rows, scores


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k largest values of each row, descending; among equals the smaller column is first."""
    if k < values.shape[1]:
        bound = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k]
        tied = (values == bound[:, None]).sum(axis=1) > 1
        top = np.argpartition(-values, k - 1, axis=1)[:, :k]
        for row in np.flatnonzero(tied):  # argpartition takes any of the tied ones
            top[row] = np.argsort(-values[row], kind="stable")[:k]
        top.sort(axis=1)
    else:
        top = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)
