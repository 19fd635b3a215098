"""Exact search of pictures among catalogue items: the best view of an item speaks for it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 512


def nearest_items(
    query: NDArray[np.float32],
    view_embedding: NDArray[np.float32],
    view_item: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Items by cosine similarity, the maximum over an item's views.

    Args:
        query: (Q, d), unit length.
        view_embedding: (V, d), unit length; `view_item` (V,) is the item number of each view, 0 .. I-1.
        k: items a query; at most I.

    Returns:
        items (Q, k) int64 and similarities (Q, k) float32, best first; ties go to the smaller item number.
    """
    items = int(view_item.max()) + 1
    k = min(k, items)
    owner = torch.from_numpy(np.asarray(view_item, dtype=np.int64))
    views = torch.from_numpy(view_embedding)
    found, scores = [], []
    for start in range(0, len(query), CHUNK):
        similarity = torch.from_numpy(query[start : start + CHUNK]) @ views.T
        best = torch.full((len(similarity), items), -torch.inf)
        best.scatter_reduce_(1, owner.expand(len(similarity), -1), similarity, "amax")
        order = best.argsort(dim=1, descending=True, stable=True)[:, :k]
        found.append(order.numpy())
        scores.append(best.gather(1, order).numpy())
    if not found:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    return np.concatenate(found), np.concatenate(scores)
