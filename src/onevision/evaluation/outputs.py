"""Files of the `evaluation` artifact beside the metrics: every query's rank, and the gallery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from onevision.evaluation.items import Items
from onevision.features.queries import QuerySet

TOP = 10
GALLERY_PLACES = 5
GALLERY_SYSTEMS = ("cascade", "generator_pruned")


def ranks_table(
    queries: QuerySet, rankings: Mapping[str, NDArray[np.int64]], ranks: Mapping[str, NDArray[np.int64]], items: Items
) -> pa.Table:
    """One row a query and system: `rank` of the item clicked first (null where it is not shown), the top `items`."""
    parts = [
        pa.table(
            {
                "query_id": queries.query_id,
                "system": [system] * len(queries),
                "rank": pa.array(ranks[system], pa.int32(), mask=ranks[system] == 0),
                "items": pa.array(item_lists(found[:, :TOP], items), pa.list_(pa.string())),
            }
        )
        for system, found in rankings.items()
    ]
    return pa.concat_tables(parts)


def gallery(
    queries: QuerySet, rankings: Mapping[str, NDArray[np.int64]], items: Items, size: int, seed: int
) -> list[dict[str, Any]]:
    """Queries drawn at random, with what two systems showed: ids only, the report reads the pictures itself."""
    drawn = np.random.default_rng(seed).choice(len(queries), size=min(size, len(queries)), replace=False)
    shown = {
        system: item_lists(rankings[system][:, :GALLERY_PLACES], items)
        for system in GALLERY_SYSTEMS
        if system in rankings
    }
    return [
        {
            "query_id": queries.query_id[row],
            "query_image": queries.image_id[row],
            "photographed": queries.photographed[row],
            "clicked": queries.clicked[row],
            **{system: lists[row] for system, lists in shown.items()},
        }
        for row in sorted(drawn.tolist())
    ]


def item_lists(found: NDArray[np.int64], items: Items) -> list[list[str]]:
    """Item ids of every ranking."""
    return [items.item_id[row[row >= 0]].tolist() for row in found]
