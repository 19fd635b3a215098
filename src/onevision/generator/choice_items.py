"""What a choice model knows its items by: what training searches say of each, and their names.

The names make sure that a model is read for the items it was made for, and let a refresh know them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.artifacts import read_json
from onevision.data.snapshot import Snapshot
from onevision.features.queries import QuerySet
from onevision.semantic_ids.catalogue import Catalogue


class ItemTable(NamedTuple):
    """I items: category row (I,), sum of the photos after which each was clicked (I, d), clicks (I,), clicks (I,) that
    the usual item has in the time that each was in the shop, new (I,) bool, thumbnail (I, t)."""

    category: Tensor
    photos: Tensor
    clicks: Tensor
    expected: Tensor
    new: Tensor
    thumbnail: Tensor


def item_table(
    catalogue: Catalogue,
    train: QuerySet,
    category: NDArray[np.int64],
    thumbnail: NDArray[np.float32],
    elsewhere: NDArray[np.float32] | None = None,
) -> ItemTable:
    """What training searches say of each item.

    Args:
        category: (I,) rows of the encoder's categories.
        thumbnail: (I, t) of `encoder.thumbnails`.
        elsewhere: (I,) orders that no search led to, which count as clicks (`orders_elsewhere`).
    """
    number = catalogue.numbers()
    pairs = [(row, number[i]) for row, clicked in enumerate(train.clicked) for i in clicked if i in number]
    query, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    photos = np.zeros_like(catalogue.embedding)
    np.add.at(photos, item, train.embedding[query])
    clicks = np.bincount(item, minlength=len(photos)).astype(np.float32)
    if elsewhere is not None:
        clicks += elsewhere
    entered = catalogue.created.clip(train.ts.min(), train.ts.max())
    shown = (train.ts.max() - entered) / max(np.ptp(train.ts), 1)
    expected = (shown * clicks.sum() / max(shown.sum(), 1e-12)).astype(np.float32)
    new = catalogue.table["cold"].to_numpy(zero_copy_only=False).astype(bool)
    columns = (category.clip(0), photos, clicks, expected, new.copy(), thumbnail)
    return ItemTable(*(torch.from_numpy(x) for x in columns))


def orders_elsewhere(snapshot: Snapshot, pairs: Path, catalogue: Catalogue) -> NDArray[np.float32]:
    """(I,) orders of the training days that no search led to; where goods are bought again these are most of them."""
    events = snapshot.table("events")
    end = pa.scalar(datetime.fromisoformat(read_json(pairs / "splits.json")["train_end"]), events["ts"].type)
    there = pc.and_(pc.equal(events["event_type"], "order"), pc.is_null(events["query_id"]))
    ordered = events["item_id"].filter(pc.and_(there, pc.less(events["ts"], end)))
    item = pc.drop_null(pc.index_in(ordered, pa.array(catalogue.item_ids)))
    return np.bincount(item.to_numpy(), minlength=len(catalogue.item_ids)).astype(np.float32)


def item_keys(item_ids: Iterable[str]) -> NDArray[np.int64]:
    """(I,) a number for each item id by which another catalogue knows the item again."""
    digests = (hashlib.blake2b(item.encode(), digest_size=8).digest() for item in item_ids)
    return np.frombuffer(b"".join(digests), np.int64).copy()


def items_digest(catalogue: Catalogue) -> str:
    """Names the items of a catalogue and their order."""
    return hashlib.sha256("\n".join(catalogue.item_ids).encode()).hexdigest()[:16]


def padded_views(view_item: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """Rows (I, V) of each item's views, which stand together; where an item has fewer, its first one again."""
    start = np.searchsorted(view_item, np.arange(items + 1))
    count = np.diff(start)
    place = np.arange(count.max())
    return start[:-1, None] + np.where(place < count[:, None], place, 0)
