"""What a choice of the past is set against while the choice model learns.

Among the items nearest to a photo alone a click on any other would teach that shoppers want what does not look like the
photo: it would be the only one that comes from afar. So a sample of all other items joins, each of which counts for as
many as it stands for, and the choice is one among the whole shop (a sampled softmax, Bengio and Senecal 2008).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onevision.features.queries import QuerySet
from onevision.semantic_ids.catalogue import Catalogue

OTHERS = 50
"""Items drawn of those that are not among the nearest."""
CHUNK = 512


class Candidates(NamedTuple):
    """Of Q searches: `items` (Q, C), -1 for none; how many items of the shop each stands for (Q, C), 1 for itself; and
    the log-probabilities (Q, C) of their semantic IDs, None where nobody asked."""

    items: NDArray[np.int64]
    stands_for: NDArray[np.float32]
    log_p: NDArray[np.float32] | None = None

    @classmethod
    def found(cls, items: NDArray[np.int64], log_p: NDArray[np.float32]) -> Candidates:
        """What beams found (`GeneratorRanker.find`)."""
        return cls(items, np.ones(items.shape, np.float32), log_p)

    @classmethod
    def of_the_shop(cls, catalogue: Catalogue, queries: QuerySet, nearest: int, seed: int) -> Candidates:
        """The items whose mean vectors are nearest to each photo, at most `nearest`, and `OTHERS` of all others.

        Items that entered the shop after a search are left out.
        """
        rng = np.random.default_rng([seed, 6])
        nearest = min(nearest, len(catalogue.item_ids))
        vectors, photos = torch.from_numpy(catalogue.embedding).T, torch.from_numpy(queries.embedding)
        created = np.sort(catalogue.created)
        parts = []
        for rows in torch.arange(len(queries)).split(CHUNK):
            ts = queries.ts[rows.numpy()]
            near = (photos[rows] @ vectors).topk(nearest, dim=1).indices.numpy()
            near = np.where(catalogue.entered(near, ts), near, -1)
            drawn = rng.integers(0, len(catalogue.item_ids), (len(rows), OTHERS))
            other = catalogue.entered(drawn, ts) & ~(drawn[:, :, None] == near[:, None]).any(2)
            rest = np.searchsorted(created, ts, side="right") - (near >= 0).sum(1)
            share = rest / np.maximum(other.sum(1), 1)
            stands_for = np.concatenate([np.ones(near.shape), np.where(other, share[:, None], 1)], 1)
            parts.append((np.concatenate([near, np.where(other, drawn, -1)], 1), stands_for.astype(np.float32)))
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))
