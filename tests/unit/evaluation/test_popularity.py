"""Click rates look at the past only, never at a query's own clicks, and give a new item its category's rate."""

from __future__ import annotations

import numpy as np
import pytest
from support.shelves import DAY, make_items

from onevision.evaluation.popularity import PSEUDO_CLICKS, ClickRates, Popularity


def test_rate_equals_a_count_over_the_past():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 20)
    created = rng.integers(-3 * DAY, 8 * DAY, 20)
    clicked, ts = rng.integers(0, 20, 500), rng.integers(0, 12 * DAY, 500)
    rates = ClickRates(group, clicked, ts, created, start=0, end=10 * DAY)
    for when in (0, DAY // 2, 5 * DAY, 10 * DAY, 40 * DAY):
        now = min(when, 10 * DAY)
        for g in range(4):
            clicks = sum(group[c] == g and t // 10**6 < now // 10**6 for c, t in zip(clicked, ts, strict=True))
            days = sum(max(0, now - max(0, c)) for c in created[group == g]) / DAY
            expected = (clicks + PSEUDO_CLICKS) / (days + PSEUDO_CLICKS / 0.5)
            assert rates.rate(g, when, 0.5) == pytest.approx(expected, rel=1e-4)


def test_a_click_is_not_known_at_its_own_time():
    rates = ClickRates(np.array([0]), np.array([0]), np.array([DAY]), np.array([0]), start=0, end=5 * DAY)
    before, at, after = rates.rate(0, np.array([DAY - 10**6, DAY, DAY + 10**6]), 1.0)
    assert at == pytest.approx(before, rel=1e-4)
    assert after > at


def test_an_unclicked_new_item_has_the_rate_of_its_category():
    items = make_items(12, cold=3)
    clicked = np.repeat(np.arange(9), 5)
    popularity = Popularity(items, clicked, np.arange(45) * (DAY // 10), start=0, end=10 * DAY)
    item, category, _ = popularity.of(np.arange(12), 11 * DAY)
    np.testing.assert_allclose(item[items.cold], category[items.cold])
    assert (item[~items.cold] != category[~items.cold]).any()


def test_clicks_after_the_end_of_training_change_nothing():
    items = make_items(6)
    early = np.array([0, 1, 1]), np.array([DAY, DAY, 2 * DAY])
    late = np.r_[early[0], 5, 5, 5], np.r_[early[1], [11 * DAY] * 3]
    a, b = (Popularity(items, *log, start=0, end=10 * DAY).of(np.arange(6), 12 * DAY) for log in (early, late))
    np.testing.assert_array_equal(np.stack(a), np.stack(b))
