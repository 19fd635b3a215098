"""What a choice model knows its items by, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.generators import make_catalogue, make_queries, thumbnails

from onevision.artifacts import write_json
from onevision.data.snapshot import Snapshot
from onevision.generator.choice_items import item_keys, item_table, orders_elsewhere

CATALOGUE, _ = make_catalogue()


def test_orders_without_a_search_count_until_training_ends(tiny_snapshot: Path, tmp_path: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    events = shop.table("events").to_pylist()
    end = sorted(event["ts"] for event in events)[len(events) // 2]
    write_json(tmp_path / "splits.json", {"train_end": end.isoformat()})
    catalogue, _ = make_catalogue()
    catalogue.item_ids[:] = sorted({event["item_id"] for event in events})[: len(catalogue.item_ids)]
    counted = orders_elsewhere(shop, tmp_path, catalogue)
    wanted = [e["item_id"] for e in events if e["event_type"] == "order" and e["query_id"] is None and e["ts"] < end]
    assert counted.tolist() == [wanted.count(item) for item in catalogue.item_ids]


def test_orders_elsewhere_are_clicks_but_no_photos() -> None:
    queries, category = make_queries(CATALOGUE), np.zeros(len(CATALOGUE.item_ids), np.int64)
    elsewhere = np.arange(len(category), dtype=np.float32)
    plain, more = (
        item_table(CATALOGUE, queries, category, thumbnails(CATALOGUE), orders) for orders in (None, elsewhere)
    )
    assert (more.clicks - plain.clicks).tolist() == elsewhere.tolist()
    assert np.array_equal(more.photos.numpy(), plain.photos.numpy())


def test_keys_name_items_whatever_their_order() -> None:
    keys = dict(zip(CATALOGUE.item_ids, item_keys(CATALOGUE.item_ids).tolist(), strict=True))
    assert len(set(keys.values())) == len(keys)
    assert item_keys(reversed(CATALOGUE.item_ids)).tolist() == [keys[item] for item in reversed(CATALOGUE.item_ids)]
