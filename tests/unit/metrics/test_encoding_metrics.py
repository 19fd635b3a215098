"""Encoding metrics agree with naive counts over explicit pairs and with hand-made tables of codes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from onevision import metrics

SIZES = (4, 3, 5)


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, size, 80) for size in SIZES], axis=1).astype(np.int16)


def test_hand_made_table():
    codes = np.array([[0, 0], [0, 0], [0, 1], [2, 1]], dtype=np.int16)
    got = metrics.encoding_metrics(codes, (4, 2), categories=["a", "a", "b", "b"])
    assert got["icr"] == 0.5
    assert got["collision_rate"] == 0.25
    assert got["largest_bucket"] == 2
    assert [got["cur@1"], got["cur@2"]] == [0.5, 1.0]
    assert [got["prefix_cur@1"], got["prefix_cur@2"]] == [0.5, 3 / 8]
    assert [got["dead_codes@1"], got["dead_codes@2"]] == [2, 0]
    assert [got["cc@1"], got["cc@2"]] == [pytest.approx(1 / 3), 1.0]
    assert got["separation"] == 0.5
    assert got["perplexity@2"] == pytest.approx(2.0)
    assert got["prefix_perplexity@1"] == got["perplexity@1"]
    assert got["prefix_perplexity@2"] == pytest.approx(2**1.5)  # prefixes of a half, a quarter and a quarter


def test_even_levels_may_hide_that_prefixes_are_few():
    codes = np.repeat(np.arange(4), 5)[:, None].repeat(2, axis=1).astype(np.int16)  # each first code has one second
    got = metrics.encoding_metrics(codes, (4, 4))
    assert got["perplexity@2"] == pytest.approx(4)
    assert got["prefix_perplexity@2"] == pytest.approx(4)  # of 16


def test_counts_equal_naive_counts(codes):
    buckets = Counter(map(tuple, codes.tolist()))
    assert metrics.independent_coding_rate(codes) == sum(n == 1 for n in buckets.values()) / len(codes)
    assert metrics.collision_rate(codes) == (len(codes) - len(buckets)) / len(codes)
    assert metrics.largest_bucket(codes) == max(buckets.values())


def test_category_consistency_equals_naive_pairs(codes):
    categories = np.random.default_rng(1).integers(0, 3, len(codes))
    for length, value in enumerate(metrics.category_consistency(codes, categories), start=1):
        together = [
            categories[a] == categories[b]
            for a, b in combinations(range(len(codes)), 2)
            if (codes[a, :length] == codes[b, :length]).all()
        ]
        assert value == pytest.approx(np.mean(together))


def test_view_consistency_counts_prefixes_not_single_levels():
    a = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    b = np.array([[1, 2, 3], [1, 2, 0], [1, 0, 3], [0, 2, 3]])
    assert metrics.shared_prefix_length(a, b).tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(metrics.view_consistency(a, b), [0.75, 0.5, 0.25])


def test_gini_is_zero_when_even_and_near_one_when_one_code_takes_all():
    even = np.arange(40)[:, None] % 10
    assert metrics.gini(even, (10,))[0] == pytest.approx(0.0)
    assert metrics.gini(np.zeros((40, 1), dtype=int), (10,))[0] == pytest.approx(0.9)
    x = np.bincount(np.array([0, 0, 0, 1, 2, 2]), minlength=4)
    pairwise = np.abs(x[:, None] - x[None]).sum() / (2 * len(x) ** 2 * x.mean())
    assert metrics.gini(np.array([[0], [0], [0], [1], [2], [2]]), (4,))[0] == pytest.approx(pairwise)


def test_row_order_does_not_change_a_measure(codes):
    categories = np.arange(len(codes)) % 4
    order = np.random.default_rng(2).permutation(len(codes))
    before = metrics.encoding_metrics(codes, SIZES, categories)
    assert metrics.encoding_metrics(codes[order], SIZES, categories[order]) == pytest.approx(before)


def test_prefix_numbers_do_not_overflow_on_long_ids():
    codes = np.full((3, 12), 4095, dtype=np.int16)
    codes[1, -1] = 0
    assert metrics.prefix_ids(codes, 12).tolist() == [1, 0, 1]


def test_codes_of_another_number_of_levels_are_refused(codes):
    with pytest.raises(ValueError, match="codebooks"):
        metrics.encoding_metrics(codes, (4, 3))
