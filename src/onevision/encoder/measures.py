"""What the embedding alone can find, before any generator: the photographed item, look-alikes, what was clicked.

An encoder that only tells products apart pushes look-alikes away from each other, and with them what shoppers click:
then no generator can learn tastes. So the neighbourhood is measured here, where it is made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from onevision.encoder.retrieval import nearest_items

CUTOFFS = (1, 5, 10)
CLICKED_CUTOFFS = (10, 50)
FAMILY_CUTOFF = 10


@dataclass(frozen=True)
class Neighbours:
    """The items nearest to every held-out photo.

    Attributes:
        row: picture row -> row of `items`.
        items: (Q, k) item numbers, best first.
        number: item id -> item number.
    """

    row: dict[int, int]
    items: NDArray[np.int64]
    number: dict[str, int]

    @classmethod
    def find(
        cls,
        embedding: NDArray[np.float32],
        owner: list[str | None],
        catalogue: NDArray[np.bool_],
        photos: NDArray[np.int64],
    ) -> Self:
        """Search the pictures at the rows `photos` among all items.

        Args:
            embedding: (N, d), unit length; owner: the item of each picture; catalogue: (N,) its catalogue views.
        """
        views = np.array([row for row in np.flatnonzero(catalogue) if owner[row] is not None], dtype=np.int64)
        number = {item: n for n, item in enumerate(sorted({str(owner[row]) for row in views}))}
        view_item = np.array([number[str(owner[row])] for row in views])
        found, _ = nearest_items(embedding[photos], embedding[views], view_item, max(*CUTOFFS, *CLICKED_CUTOFFS))
        return cls({int(row): n for n, row in enumerate(photos)}, found, number)

    def rank(self, rows: list[int], items: list[str]) -> NDArray[np.int64]:
        """Place (from 0) of each item among the neighbours of a photo; the number of neighbours where it is not."""
        hit = self.items[[self.row[row] for row in rows]] == np.array([[self.number[item]] for item in items])
        return np.where(hit.any(1), hit.argmax(1), self.items.shape[1])


def own_item_recall(
    neighbours: Neighbours, owner: list[str | None], split: list[str], trained: set[str]
) -> dict[str, float]:
    """`<split>/r@k`: share of held-out photos with their own item among the k nearest; `<split>_cold`: new items."""
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        rows = [row for row in neighbours.row if split[row] == name and owner[row] in neighbours.number]
        cold = [row for row in rows if owner[row] not in trained]
        for label, chosen in ((name, rows), (f"{name}_cold", cold)):
            if chosen:
                rank = neighbours.rank(chosen, [str(owner[row]) for row in chosen])
                metrics |= {f"{label}/r@{k}": float((rank < k).mean()) for k in CUTOFFS}
    return metrics


def clicked_item_recall(neighbours: Neighbours, queries: pa.Table, image_row: dict[str, int]) -> dict[str, float]:
    """`<split>/clicked_r@k`: share of searches whose first clicked item is among the k nearest to their photo."""
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        found = [
            (image_row[query["image_id"]], query["clicked"][0])
            for query in queries.select(["image_id", "split", "clicked"]).to_pylist()
            # before shards embed, only training pictures are there
            if query["split"] == name and query["image_id"] in image_row and query["clicked"]
        ]
        found = [(row, item) for row, item in found if row in neighbours.row and item in neighbours.number]
        if found:
            rank = neighbours.rank([row for row, _ in found], [item for _, item in found])
            metrics |= {f"{name}/clicked_r@{k}": float((rank < k).mean()) for k in CLICKED_CUTOFFS}
    return metrics


def family_recall(
    neighbours: Neighbours, owner: list[str | None], split: list[str], family: dict[str, int]
) -> dict[str, float]:
    """`<split>/family_r@10`: share of an item's look-alikes (its family's others) among the 10 nearest to a photo."""
    ids = sorted(neighbours.number, key=lambda item: neighbours.number[item])
    of_item = np.array([family[item] for item in ids])
    size = Counter(of_item.tolist())
    metrics: dict[str, float] = {}
    for name in ("validation", "test"):
        rows = [row for row in neighbours.row if split[row] == name and owner[row] in neighbours.number]
        own = np.array([neighbours.number[str(owner[row])] for row in rows], dtype=np.int64)
        alike = np.array([size[of_item[n]] - 1 for n in own])
        if not (alike > 0).any():
            continue
        nearest = neighbours.items[[neighbours.row[row] for row in rows]][:, :FAMILY_CUTOFF]
        found = ((of_item[nearest] == of_item[own][:, None]) & (nearest != own[:, None])).sum(1)
        metrics[f"{name}/family_r@{FAMILY_CUTOFF}"] = float((found / np.maximum(alike, 1))[alike > 0].mean())
    return metrics
