"""Ranking metrics agree with naive loops and with ranx, and keep the inequalities that a reader relies on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onevision.metrics import first_rank, hit_rate, mrr, ndcg, recall


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    items = np.stack([rng.permutation(40)[:12] for _ in range(60)])
    items[::7, 8:] = -1
    relevant = [list(rng.choice(40, size=rng.integers(1, 5), replace=False)) for _ in range(60)]
    gains = [[float(g) for g in rng.choice([1.0, 2.0], size=len(r))] for r in relevant]
    return items, relevant, gains


def naive(items, relevant, gains, k):
    rows = []
    for ranking, wanted, values in zip(items.tolist(), relevant, gains, strict=True):
        gain = {int(i): v for i, v in zip(wanted, values, strict=True)}
        found = [(place, i) for place, i in enumerate(ranking[:k], start=1) if i in gain]
        dcg = sum(gain[i] / math.log2(place + 1) for place, i in found)
        best = sum(v / math.log2(p + 1) for p, v in enumerate(sorted(values, reverse=True)[:k], start=1))
        rows.append((bool(found), len(found) / len(gain), 1 / found[0][0] if found else 0.0, dcg / best))
    return np.array(rows, dtype=float).T


@pytest.mark.parametrize("k", [1, 3, 10, 12])
def test_metrics_equal_naive_loops(case, k):
    items, relevant, gains = case
    expected = naive(items, relevant, gains, k)
    got = (
        hit_rate(items, relevant, k),
        recall(items, relevant, k),
        mrr(items, relevant, k),
        ndcg(items, relevant, k, gains),
    )
    np.testing.assert_allclose(np.stack(got), expected, atol=1e-12)


@pytest.fixture(scope="module")
def ranx():
    numba = pytest.importorskip("numba")
    numba.config.DISABLE_JIT = True  # compiling takes 30 s, running 60 queries without takes none
    return pytest.importorskip("ranx")


@pytest.mark.parametrize("k", [1, 5, 10])
def test_metrics_equal_ranx(case, k, ranx):
    items, relevant, gains = case
    qrels = ranx.Qrels(
        {
            f"q{q:03d}": {f"i{i}": int(g) for i, g in zip(r, w, strict=True)}
            for q, (r, w) in enumerate(zip(relevant, gains, strict=True))
        }
    )
    run = ranx.Run(
        {
            f"q{q:03d}": {f"i{i}": float(100 - place) for place, i in enumerate(r) if i >= 0}
            for q, r in enumerate(items.tolist())
        }
    )
    names = [f"hit_rate@{k}", f"recall@{k}", f"mrr@{k}", f"ndcg@{k}"]
    theirs = ranx.evaluate(qrels, run, names)
    ours = (
        hit_rate(items, relevant, k),
        recall(items, relevant, k),
        mrr(items, relevant, k),
        ndcg(items, relevant, k, gains),
    )
    for name, values in zip(names, ours, strict=True):
        assert values.mean() == pytest.approx(theirs[name], abs=1e-9), name


def test_a_repeated_item_counts_once():
    items = np.array([[4, 4, 4, 7]])
    assert recall(items, [[4, 7]], 3)[0] == 0.5
    assert ndcg(items, [[4]], 3)[0] == 1.0


def test_ndcg_never_exceeds_hit_rate(case):
    items, relevant, gains = case
    for k in (1, 5, 12):
        assert (ndcg(items, relevant, k, gains) <= hit_rate(items, relevant, k) + 1e-12).all()
        assert (mrr(items, relevant, k) <= hit_rate(items, relevant, k)).all()


def test_nothing_shown_is_no_hit():
    items = np.full((2, 3), -1)
    assert hit_rate(items, [[0], [1]], 3).sum() == 0
    assert first_rank(items, [[0], [1]]).tolist() == [0, 0]


def test_first_rank_counts_from_one():
    items = np.array([[9, 3, 5], [5, 9, 3], [1, 2, 0]])
    assert first_rank(items, [[3], {5, 3}, [7]]).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("relevant", "k", "message"),
    [([[1], []], 2, "row 1 has no relevant"), ([[1], [2]], 4, "k=4"), ([[1]], 2, "1 queries")],
)
def test_a_question_without_an_answer_is_refused(relevant, k, message):
    with pytest.raises(ValueError, match=message):
        hit_rate(np.zeros((2, 3), dtype=np.int64), relevant, k)
