"""Every slice holds the queries that its name says, counted by hand from the tables."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.models import make_models

from onevision.data.snapshot import Snapshot
from onevision.evaluation.items import Items
from onevision.evaluation.slices import head_items, query_slices, training_clicks
from onevision.evaluation.stage import held_out_queries


@pytest.fixture(scope="module")
def models(tiny_snapshot, tmp_path_factory):
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def items(models):
    return Items.load(models["semantic_ids"], Snapshot.open(models["snapshot"]))


@pytest.fixture(scope="module")
def sliced(models, items):
    queries, _ = held_out_queries(models["pairs"], models["encoder"], models["features"], items, 100)
    return queries, query_slices(queries, items, models["pairs"], models["encoder"])


def test_personal_queries_are_those_whose_click_is_not_the_photographed_item(sliced):
    queries, slices = sliced
    other = [clicked[0] != item for clicked, item in zip(queries.clicked, queries.photographed, strict=True)]
    assert 0 < sum(other) < len(other)
    assert slices["personal"].tolist() == other
    assert slices["not_personal"].tolist() == [not it for it in other]


def test_cold_slices_are_those_of_what_entered_after_training(sliced, items):
    queries, slices = sliced
    cold = [bool(items.cold[items.row(item)]) for item in queries.photographed]
    assert 0 < sum(cold) < len(cold)
    assert slices["cold_item"].tolist() == cold
    assert slices["warm_item"].tolist() == [not it for it in cold]
    assert (slices["cold_user"] != slices["warm_user"]).all()
    assert slices["cold_user"].tolist() == queries.cold_user.tolist()


def test_departments_are_those_of_the_clicked_items(sliced, tiny_snapshot):
    queries, slices = sliced
    shop = Snapshot.open(tiny_snapshot)
    leaf = dict(zip(*(shop.table("items")[name].to_pylist() for name in ("item_id", "category_id")), strict=True))
    parent = dict(zip(*(shop.table("categories")[n].to_pylist() for n in ("category_id", "parent_id")), strict=True))
    wanted = [parent[leaf[clicked[0]]] for clicked in queries.clicked]
    assert {name for name in slices if name.startswith("department:")} == {f"department:{d}" for d in wanted}
    for department in set(wanted):
        assert slices[f"department:{department}"].tolist() == [name == department for name in wanted]
    assert slices["view:user_photo"].all()


def test_head_and_tail_are_told_by_the_training_clicks_of_the_clicked_item(models, items, sliced):
    queries, slices = sliced
    table = pq.read_table(models["pairs"] / "queries.parquet").to_pandas()
    counts = Counter(item for clicked in table.loc[table["split"] == "train", "clicked"] for item in clicked)
    clicks = training_clicks(models["pairs"], items)
    assert clicks.tolist() == [counts[item] for item in items.item_id]
    assert clicks.sum() == counts.total() > 0
    head = {items.item_id[row] for row in np.flatnonzero(head_items(clicks))}
    cold = set(items.item_id[items.cold])
    first = [clicked[0] for clicked in queries.clicked]
    assert slices["head"].tolist() == [item in head for item in first]
    assert slices["tail"].tolist() == [item not in head | cold for item in first]
    assert all([slices["head"].any(), slices["tail"].any(), any(item in cold for item in first)])


def test_the_head_is_the_fewest_items_that_hold_half_of_the_clicks():
    assert head_items(np.array([1, 6, 0, 3, 2])).tolist() == [False, True, False, False, False]
    assert head_items(np.array([1, 5, 0, 4, 2])).tolist() == [False, True, False, True, False]
    assert head_items(np.array([2, 2, 2, 2])).tolist() == [True, True, False, False]
    assert not head_items(np.zeros(3, dtype=np.int64)).any()
