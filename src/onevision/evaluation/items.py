"""The items that every system ranks, with what a ranker may know of them: rows of the semantic-ID artifact.

All systems choose among **all** of them. An item that entered after a query's time could not have been shown to that
query; it stays a candidate for every system alike, because the generator's trie and the dense index both hold the
snapshot's whole catalogue, and the few items that enter during the test days weigh on all systems the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from onevision.data.snapshot import Snapshot
from onevision.semantic_ids.catalogue import Catalogue

UNKNOWN = -1


@dataclass(frozen=True)
class Items:
    """I items by row number.

    Attributes:
        item_id: (I,) the shop's keys, sorted; `bucket` (I,) numbers the distinct semantic IDs.
        category, department, brand: (I,) names; an item without a brand has "".
        created: (I,) int64 microseconds since 1970, UTC.
        embedding: (I, d) unit length; `view_embedding` (V, d) and `view_item` (V,) hold every catalogue view.
    """

    item_id: NDArray[np.str_]
    bucket: NDArray[np.int64]
    category: NDArray[np.str_]
    department: NDArray[np.str_]
    brand: NDArray[np.str_]
    price: NDArray[np.float64]
    cold: NDArray[np.bool_]
    created: NDArray[np.int64]
    embedding: NDArray[np.float32]
    view_embedding: NDArray[np.float32]
    view_item: NDArray[np.int64]

    @classmethod
    def load(cls, semantic_ids: Path, snapshot: Snapshot) -> Items:
        """Read a semantic-ID artifact, and brands from the snapshot it was made from."""
        catalogue, shop = Catalogue.open(semantic_ids), snapshot.table("items")
        place = pc.index_in(catalogue.table["item_id"].combine_chunks(), shop["item_id"].combine_chunks())
        return cls.of(catalogue, shop["brand"].take(place).to_pylist())

    @classmethod
    def of(cls, catalogue: Catalogue, brands: Iterable[str | None]) -> Items:
        """The items of a catalogue; `brands` in its order."""
        table = catalogue.table
        return cls(
            item_id=np.array(catalogue.item_ids, dtype=np.str_),
            bucket=catalogue.bucket,
            category=np.array(table["category_id"].to_pylist(), dtype=np.str_),
            department=np.array(table["department_id"].to_pylist(), dtype=np.str_),
            brand=np.array([brand or "" for brand in brands], dtype=np.str_),
            price=table["price"].to_numpy(),
            cold=table["cold"].to_numpy(zero_copy_only=False),
            created=catalogue.created,
            embedding=catalogue.embedding,
            view_embedding=catalogue.view_embedding,
            view_item=catalogue.view_item,
        )

    def __len__(self) -> int:
        return len(self.item_id)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_id.tolist())}

    def arrow_ids(self) -> pa.Array:
        """`item_id` as an Arrow array, to look rows up in bulk."""
        return pa.array(self.item_id.tolist(), pa.string())

    def row(self, item_id: str | None) -> int:
        """Row of an item, `UNKNOWN` where there is no such item."""
        return UNKNOWN if item_id is None else self._row_of.get(item_id, UNKNOWN)

    def rows(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """Rows of those items that are known, in the given order."""
        found = (self._row_of.get(item, UNKNOWN) for item in item_ids)
        return np.array([row for row in found if row != UNKNOWN], dtype=np.int64)

    def row_lists(self, lists: Iterable[Iterable[str]]) -> list[NDArray[np.int64]]:
        """`rows` of every list."""
        return [self.rows(item_ids) for item_ids in lists]
