"""Hit rate, recall, MRR and NDCG at k: one value a query, so that differences can be paired and bootstrapped.

A ranking is a matrix `items` (Q, K) of item rows, best first; -1 means that the system had nothing more to show.
`relevant` is one collection of item rows a query. An item that a ranking repeats counts at its first place only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Relevant = Sequence[Collection[int]]
"""The relevant item rows of every query."""


def hit_rate(items: NDArray[np.int64], relevant: Relevant, k: int) -> NDArray[np.float64]:
    """HR@k: 1 where any relevant item is among the first k, else 0. (Q,)."""
    return np.asarray((_gains(items, relevant, k) > 0).any(axis=1), dtype=np.float64)


def recall(items: NDArray[np.int64], relevant: Relevant, k: int) -> NDArray[np.float64]:
    """R@k: share of a query's relevant items that are among the first k. (Q,)."""
    found = (_gains(items, relevant, k) > 0).sum(axis=1).astype(np.float64)
    found /= [len(set(r)) for r in relevant]
    return found


def mrr(items: NDArray[np.int64], relevant: Relevant, k: int) -> NDArray[np.float64]:
    """MRR@k: one over the rank of the first relevant item, 0 beyond k. (Q,)."""
    rank = _first(_gains(items, relevant, k) > 0)
    return np.where(rank > 0, 1.0 / np.maximum(rank, 1), 0.0)


def ndcg(
    items: NDArray[np.int64], relevant: Relevant, k: int, gains: Sequence[Sequence[float]] | None = None
) -> NDArray[np.float64]:
    """NDCG@k with linear gains: `sum(gain / log2(rank + 1))` over that of the best possible ranking. (Q,).

    Args:
        gains: gain of each relevant item, in the order of `relevant` (no item twice); 1 for all by default.
    """
    gain = _gains(items, relevant, k, gains)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.zeros_like(gain)
    for row, wanted in enumerate(relevant):
        values = [1.0] * len(set(wanted)) if gains is None else sorted(gains[row], reverse=True)
        ideal[row, : min(k, len(values))] = values[:k]
    return (gain @ discount) / (ideal @ discount)


def first_rank(items: NDArray[np.int64], relevant: Relevant) -> NDArray[np.int64]:
    """Rank, from 1, of the first relevant item in the whole ranking; 0 where there is none. (Q,)."""
    return _first(_gains(items, relevant, items.shape[1]) > 0)


def _first(hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def _gains(
    items: NDArray[np.int64], relevant: Relevant, k: int, gains: Sequence[Sequence[float]] | None = None
) -> NDArray[np.float64]:
    """Gain of every place of the first k, (Q, k): 0 where the item is not relevant or was shown before."""
    if items.ndim != 2 or len(items) != len(relevant):
        raise ValueError(f"a ranking of shape {items.shape} for {len(relevant)} queries; (queries, places) is wanted")
    if not 1 <= k <= items.shape[1]:
        raise ValueError(f"k={k} asked of a ranking of {items.shape[1]} places; pad short rankings with -1")
    sizes = np.array([len(r) for r in relevant], dtype=np.int64)
    if (sizes == 0).any():
        raise ValueError(f"query row {int((sizes == 0).argmax())} has no relevant item; leave such queries out")
    if gains is not None and any(len(g) != n for g, n in zip(gains, sizes, strict=True)):
        raise ValueError("every relevant item needs one gain")
    wanted = np.fromiter((item for r in relevant for item in r), dtype=np.int64, count=int(sizes.sum()))
    value = np.ones(len(wanted)) if gains is None else np.concatenate([np.asarray(g, dtype=float) for g in gains])
    top = np.asarray(items[:, :k], dtype=np.int64)
    span = max(int(top.max(initial=0)), int(wanted.max(initial=0))) + 1
    keys = np.arange(len(top))[:, None] * span + top
    wanted_keys, place = np.unique(np.repeat(np.arange(len(top)), sizes) * span + wanted, return_index=True)
    if gains is not None and len(wanted_keys) < len(wanted):
        raise ValueError("an item is relevant twice to one query, with two gains")
    slot = np.minimum(np.searchsorted(wanted_keys, keys), len(wanted_keys) - 1)
    hit = (top >= 0) & (wanted_keys[slot] == keys)
    _, first = np.unique(keys[hit], return_index=True)
    kept = np.zeros(int(hit.sum()), dtype=bool)
    kept[first] = True
    out = np.zeros(top.shape)
    out[hit] = np.where(kept, value[place[slot[hit]]], 0.0)
    return out
