"""Dense search is exact, lets an item's best view speak, and breaks ties the same way always."""

from __future__ import annotations

import numpy as np
import pytest

from onevision.evaluation import dense
from onevision.evaluation.dense import DenseSearch


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    owners = rng.permutation(np.r_[np.arange(30), rng.integers(0, 30, 50)])
    return unit(rng, 80, 8), owners, unit(rng, 17, 8)


def naive(views, owners, query, items):
    best = [max((float(q @ v) for v, o in zip(views, owners, strict=True) if o == i)) for q in query for i in items]
    return np.array(best).reshape(len(query), -1)


def test_search_equals_a_loop_over_every_view(world):
    views, owners, query = world
    expected = naive(views, owners, query, range(30))
    rows, scores = DenseSearch(views, owners, 30).search(query, 7)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), atol=1e-6)


def test_a_search_among_some_equals_a_loop_over_them(world):
    views, owners, query = world
    allowed = np.arange(30) % 3 == 1
    some = np.flatnonzero(allowed)
    expected = naive(views, owners, query, some)
    rows, scores = DenseSearch(views, owners, 30).search(query, 12, allowed)
    np.testing.assert_array_equal(rows[:, :10], some[np.argsort(-expected, axis=1, kind="stable")])
    np.testing.assert_allclose(scores[:, :10], -np.sort(-expected, axis=1), atol=1e-6)
    assert (rows[:, 10:] == -1).all()
    assert (DenseSearch(views, owners, 30).search(query, 3, np.zeros(30, dtype=bool))[0] == -1).all()


def test_blocks_do_not_change_the_result(world, monkeypatch):
    views, owners, query = world
    whole = DenseSearch(views, owners, 30).search(query, 5)
    monkeypatch.setattr(dense, "_BLOCK", 20)
    for a, b in zip(whole, DenseSearch(views, owners, 30).search(query, 5), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 4, 6])
def test_ties_go_to_the_smaller_row(k):
    views = np.array([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    rows, _ = DenseSearch(views, np.array([0, 5, 2, 4, 3, 1]), 6).search(views[1:2], k)
    assert rows[0].tolist() == [1, 2, 4, 5, 0, 3][:k]


def test_more_places_than_items_are_left_empty():
    views = np.eye(3, dtype=np.float32)
    rows, scores = DenseSearch(views, np.array([0, 1, 3]), 4).search(views[:1], 6)
    assert rows[0].tolist() == [0, 1, 3, -1, -1, -1]  # item 2 has no view: it cannot be found
    assert np.isneginf(scores[0, 3:]).all()
