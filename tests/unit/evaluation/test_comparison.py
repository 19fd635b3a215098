"""A comparison takes any named rankings, pairs them on the same queries, and keeps its inequalities."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from onevision.evaluation.comparison import (
    DIFFERENCE_METRICS,
    OF_IDS,
    PLACES,
    SLICE_METRICS,
    Comparison,
    Truth,
    distinct_buckets,
    flat_intervals,
    interval_table,
    measure,
)
from onevision.metrics import Interval, paired_difference_interval

QUERIES, ITEMS = 300, 400


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    clicked = [rng.choice(ITEMS, size=rng.integers(1, 4), replace=False).tolist() for _ in range(QUERIES)]
    return Truth.of(clicked, [c[-1:] if q % 3 == 0 else [] for q, c in enumerate(clicked)])


@pytest.fixture(scope="module")
def comparison(truth):
    rng = np.random.default_rng(1)
    weak = np.stack([rng.permutation(ITEMS)[:PLACES] for _ in range(QUERIES)])
    strong = weak.copy()
    better = rng.random(QUERIES) < 0.3
    strong[better, 2] = np.array(truth.relevant)[better, 0]
    bucket = np.arange(ITEMS) // 2
    return Comparison.of({"weak": weak, "strong": strong}, truth, bucket=bucket, samples=200, seed=3)


def test_ndcg_and_mrr_never_exceed_hit_rate(comparison):
    metrics = comparison.metrics()
    for system in ("weak", "strong"):
        assert metrics[f"{system}/ndcg@10"] <= metrics[f"{system}/hr@10"]
        assert metrics[f"{system}/mrr@10"] <= metrics[f"{system}/hr@10"]
        assert metrics[f"{system}/hr@10"] <= metrics[f"{system}/sid_hr@10"]


def test_a_system_is_no_better_than_itself_and_the_better_one_shows(comparison):
    same = comparison.difference("weak", "weak")
    assert all((i.mean, i.low, i.high) == (0, 0, 0) for i in same.values())
    better = comparison.difference("strong", "weak")["hr@10"]
    assert 0 < better.low <= better.mean <= better.high


def test_difference_is_the_difference_of_the_means(comparison):
    flat, metrics = comparison.difference_metrics([("strong", "weak")]), comparison.metrics()
    for name in DIFFERENCE_METRICS:
        assert flat[f"strong_minus_weak/{name}"] == pytest.approx(metrics[f"strong/{name}"] - metrics[f"weak/{name}"])


def test_slices_that_split_the_queries_average_to_the_whole(comparison):
    inside = np.arange(QUERIES) % 4 == 0
    flat = comparison.slice_metrics({"a": inside, "b": ~inside, "none": np.zeros(QUERIES, dtype=bool)})
    whole = (flat["strong/hr@10/a"] * inside.sum() + flat["strong/hr@10/b"] * (~inside).sum()) / QUERIES
    assert whole == pytest.approx(comparison.metrics()["strong/hr@10"])
    assert not any(key.endswith("/none") for key in flat)
    assert {f"weak/{name}/a" for name in SLICE_METRICS} <= set(flat)


def test_a_difference_over_a_slice_is_that_of_its_queries_alone(comparison):
    inside = np.arange(QUERIES) % 4 == 0
    for name, interval in comparison.difference("strong", "weak", inside).items():
        strong, weak = (comparison.values[system][name][inside] for system in ("strong", "weak"))
        expected = paired_difference_interval(strong, weak, comparison.samples, comparison.seed)
        assert astuple(interval) == pytest.approx(astuple(expected))


def test_a_gap_is_between_the_means_of_two_slices(comparison):
    one = comparison.values["strong"]["hr@10"] == 1
    gap = comparison.gap("strong", one, ~one)
    assert gap["hr@10"] == Interval(1.0, 1.0, 1.0)
    assert gap["mrr@10"].mean == pytest.approx(comparison.values["strong"]["mrr@10"][one].mean())
    assert gap["mrr@10"].low < gap["mrr@10"].mean < gap["mrr@10"].high


def test_intervals_are_flat_and_shown_under_their_names(comparison):
    found = comparison.difference("strong", "weak")
    flat = flat_intervals("a_minus_b/<metric>/personal", found)
    for metric, interval in found.items():
        key = f"a_minus_b/{metric}/personal"
        assert (flat[key], flat[f"{key}/low"], flat[f"{key}/high"]) == (interval.mean, interval.low, interval.high)
    table = interval_table("Differences", {"strong less weak": found})
    assert len(table.rows[0]) == len(table.columns)
    assert table.rows[0][table.columns.index("hr@10")].endswith("*")


def test_metrics_of_items_and_of_semantic_ids_are_told_apart(comparison):
    metrics = comparison.metrics()
    found = {name.removeprefix(OF_IDS) for name in comparison.values["weak"] if name.startswith(OF_IDS)}
    assert found == {"hr@1", "hr@5", "hr@10", "hr@50", "hr@350", "mrr@10", "ndcg@10"}
    assert all(metrics[f"weak/{name}"] <= metrics[f"weak/{OF_IDS}{name}"] for name in found)
    assert set(comparison.sid_table().columns) == {"system", *(f"{OF_IDS}{name}" for name in found)}
    assert not any(name.startswith(OF_IDS) for name in comparison.table().columns)


def test_ordered_items_weigh_more_than_clicked_ones():
    truth = Truth.of([[1, 2]], [[2]])
    ranking = np.full((2, PLACES), -1)
    ranking[0, :2], ranking[1, :2] = [2, 1], [1, 2]
    bought_first = measure(ranking[:1], truth)["order_ndcg@10"][0]
    clicked_first = measure(ranking[1:], truth)["order_ndcg@10"][0]
    assert bought_first == 1.0 > clicked_first


def test_sid_hit_counts_distinct_ids_and_not_their_items():
    bucket = np.array([0, 0, 0, 1, 2, 2])
    items = np.array([[0, 1, 2, 3, 5, -1]])
    assert distinct_buckets(items, bucket, 3).tolist() == [[0, 1, 2]]
    assert distinct_buckets(items, bucket, 2).tolist() == [[0, 1]]


def test_ranks_of_semantic_ids_are_among_different_ids():
    bucket = np.array([0, 0, 0, 1, 2, 2])
    ranking = np.full((1, PLACES), -1)
    ranking[0, :4] = [0, 1, 3, 4]  # of the IDs 0, 0, 1, 2; what was clicked is not found, its ID is the third
    values = measure(ranking, Truth.of([[5]]), bucket)
    assert values["hr@10"][0] == values["sid_hr@1"][0] == 0
    assert values["sid_hr@5"][0] == 1
    assert values["sid_mrr@10"][0] == pytest.approx(1 / 3)
    assert values["sid_ndcg@10"][0] == pytest.approx(1 / 2)


def test_same_seed_gives_the_same_tables(comparison, truth):
    again = Comparison(truth, 200, 3, comparison.values, comparison.ranks)
    assert again.table() == comparison.table()
    assert again.difference_table([("strong", "weak")]).rows[0][0] == "strong - weak"


def test_any_judged_item_is_a_hit_and_a_log_counts_the_first_click():
    ranking = np.full((1, PLACES), -1)
    ranking[0, :3] = [7, 5, 9]
    judged, clicked = Truth.of_relevant([[9, 5]]), Truth.of([[9, 5]], [[]])
    assert measure(ranking, judged)["mrr@10"][0] == 1 / 2
    assert measure(ranking, clicked)["mrr@10"][0] == 1 / 3
    assert measure(ranking, judged)["recall@10"][0] == 1.0
