"""Next baskets: the plain lists against counting by hand, and the choice model with the photo left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
from support.generators import make_catalogue, make_queries, thumbnails

from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_items import item_table
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
            "without_photo": [0, 3, 8],
            "with_photo": pa.array([None, 1, 10], pa.int64()),
        }
    )
    found = compared_baskets([table], 1)
    assert found["all"]["baskets"] == 3
    assert [found["all"]["popularity"][f"hit@{k}"][0] for k in (1, 5, 10)] == [0.3333, 0.3333, 0.6667]
    less = found["all"]["without_photo_less_own_frequency"]
    assert [less[f"hit@{k}"][0] for k in (1, 5, 10)] == [-0.3333, -0.3333, 0.0]
    assert found["searched"]["baskets"] == 2
    assert [found["searched"]["with_photo"][f"hit@{k}"][0] for k in (1, 5, 10)] == [0.5, 0.5, 1.0]
    assert compared_baskets([], 1) == {}


def test_without_a_photo_households_get_the_posterior_mean_of_what_they_took_and_what_is_popular() -> None:
    catalogue, _ = make_catalogue()
    queries = make_queries(catalogue)
    items = item_table(catalogue, queries, np.zeros(len(catalogue.item_ids), np.int64), thumbnails(catalogue))
    items.new.zero_()
    choice = ChoiceModel(items, ["new"], 2, 50).attach(catalogue).eval()
    history = [catalogue.item_ids[n] for n in (7, 3, 7, 12)]
    nothing: list[list[str]] = [[], []]
    shoppers = choice.read_without_photo(["new", None], [nothing, nothing, nothing, [history, []]])
    usual = 10 * (choice.item_clicks + 0.5).numpy() / float((choice.item_clicks + 0.5).sum())
    own = usual.copy()
    for place, item in enumerate((7, 3, 7, 12)):
        own[item] += np.exp(-place / 30)
    ranked = rank_without_photo(choice, shoppers)
    for row, mean in enumerate((own, usual)):
        np.testing.assert_allclose(mean[ranked[row]], np.sort(mean)[::-1][:10], rtol=1e-5)
