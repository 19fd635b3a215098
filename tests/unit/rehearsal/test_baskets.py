"""Next baskets: the plain lists against counting by hand, and the choice model with the photo left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from support.generators import make_catalogue, make_queries

from onevision.generator.choice import ChoiceModel, item_table
from onevision.rehearsal.baskets import _first_hits, _ranked_by_counts, compared_baskets, rank_without_photo


def test_popularity_and_own_frequency_are_what_counting_gives() -> None:
    rng = np.random.default_rng(1)
    orders = pd.DataFrame({"user_id": rng.choice(["a", "b", "c"], 300), "item": rng.zipf(1.5, 300) % 20})
    users = ["b", "nobody", "a"]
    ranked = _ranked_by_counts(orders, users, 20)
    everywhere = Counter(orders["item"])
    for row, user in enumerate(users):
        own = Counter(orders[orders["user_id"] == user]["item"])
        assert ranked["popularity"][row].tolist() == sorted(range(20), key=lambda i: (-everywhere[i], i))[:10]
        wanted = sorted(range(20), key=lambda i: (-own[i], -everywhere[i], i))[:10]
        assert ranked["own_frequency"][row].tolist() == wanted


def test_a_list_hits_a_basket_by_any_of_its_items() -> None:
    ranked = np.array([[3, 1, 2], [4, 5, 6], [-1, -1, -1]])
    assert _first_hits(ranked, [{2, 1}, {9}, {0}]).tolist() == [2, 0, 0]


def test_hit_rates_are_over_all_baskets_and_over_those_with_a_search() -> None:
    table = pa.table(
        {
            "user_id": ["a", "b", "c"],
            "popularity": [1, 0, 7],
            "own_frequency": [1, 2, 0],
            "without_photo": pa.array([None, 3, 0], pa.int64()),
            "with_photo": pa.array([None, 1, 10], pa.int64()),
        }
    )
    found = compared_baskets([table], 1)
    assert found["all"]["baskets"] == 3
    assert [found["all"]["popularity"][f"hit@{k}"][0] for k in (1, 5, 10)] == [0.3333, 0.3333, 0.6667]
    assert found["searched"]["baskets"] == 2
    assert [found["searched"]["with_photo"][f"hit@{k}"][0] for k in (1, 5, 10)] == [0.5, 0.5, 1.0]
    assert compared_baskets([], 1) == {}


def test_without_a_photo_the_choice_is_the_same_whatever_the_photo_was() -> None:
    catalogue, _ = make_catalogue()
    queries = make_queries(catalogue)
    choice = ChoiceModel(item_table(catalogue, queries, np.zeros(len(catalogue.item_ids), np.int64)), ["new"], 2, 3)
    choice.taste.copy_(torch.randn(choice.taste.shape, generator=torch.Generator().manual_seed(1)))
    choice.attach(catalogue).eval()
    ranked = rank_without_photo(choice, queries)
    other = queries.take(np.arange(len(queries)))
    other.embedding = queries.embedding[::-1].copy()
    assert np.array_equal(rank_without_photo(choice, other), ranked)
    assert len(np.unique(ranked[0])) == len(ranked[0])
