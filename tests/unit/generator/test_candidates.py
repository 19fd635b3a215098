"""What a choice is set against: the nearest, and a sample that stands for the whole shop."""

from __future__ import annotations

import numpy as np
from support.generators import HOUR, NOW, entered_at, make_catalogue, make_generator, make_queries

from onevision.decoding.ranker import GeneratorRanker
from onevision.generator.candidates import OTHERS, Candidates

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE)
NEAREST = 12


def test_the_nearest_come_first_and_none_of_them_again() -> None:
    among = Candidates.of_the_shop(CATALOGUE, QUERIES, NEAREST, seed=1)
    assert among.items.shape == (len(QUERIES), NEAREST + OTHERS)
    assert among.log_p is None
    cosine = QUERIES.embedding @ CATALOGUE.embedding.T
    for row, items in enumerate(among.items):
        near, others = items[:NEAREST], items[NEAREST:]
        assert set(near) == set(np.argsort(-cosine[row])[:NEAREST])
        assert not set(near) & set(others)
    assert (among.stands_for[:, :NEAREST] == 1).all()
    again = Candidates.of_the_shop(CATALOGUE, QUERIES, NEAREST, seed=1)
    np.testing.assert_array_equal(again.items, among.items)
    assert (Candidates.of_the_shop(CATALOGUE, QUERIES, NEAREST, seed=2).items != among.items).any()


def test_together_they_stand_for_all_items_that_were_there() -> None:
    created = np.full(len(CATALOGUE.item_ids), QUERIES.ts.min() - HOUR)
    created[::3] = np.median(QUERIES.ts).astype(np.int64)
    catalogue = entered_at(CATALOGUE, created)
    among = Candidates.of_the_shop(catalogue, QUERIES, NEAREST, seed=1)
    there = among.items >= 0
    assert catalogue.entered(among.items, QUERIES.ts)[there].all()
    counted = np.where(there, among.stands_for, 0).sum(1)
    np.testing.assert_allclose(counted, (created <= QUERIES.ts[:, None]).sum(1), rtol=1e-5)


def test_sums_over_the_shop_are_estimated_without_bias() -> None:
    value = np.random.default_rng(0).random(len(CATALOGUE.item_ids))
    estimates = []
    for seed in range(200):
        among = Candidates.of_the_shop(CATALOGUE, QUERIES, NEAREST, seed)
        weight = np.where(among.items >= 0, among.stands_for, 0)
        estimates.append((weight * value[among.items]).sum(1))
    np.testing.assert_allclose(np.mean(estimates, axis=0), value.sum(), rtol=0.02)


def test_a_shop_of_few_items_needs_no_sample() -> None:
    among = Candidates.of_the_shop(CATALOGUE, QUERIES, 10**6, seed=1)
    count = len(CATALOGUE.item_ids)
    assert (np.sort(among.items[:, :count]) == np.arange(count)).all()
    assert (among.items[:, count:] == -1).all()
    assert np.isfinite(among.stands_for).all()


def test_what_entered_the_shop_later_is_nobodys_loser() -> None:
    catalogue = entered_at(CATALOGUE, np.where(np.arange(len(CATALOGUE.item_ids)) % 2, QUERIES.ts.min(), NOW + 1))
    count = len(catalogue.item_ids)
    near = Candidates.of_the_shop(catalogue, QUERIES, count, 0).items
    found, log_p = GeneratorRanker(make_generator(QUANTIZER), catalogue).find(QUERIES, catalogue.trie.leaves)
    for items in (near, found):
        assert {frozenset(row[row >= 0].tolist()) for row in items} == {frozenset(range(1, count, 2))}
    assert (np.isneginf(log_p) == (found < 0)).all()
    served = GeneratorRanker(make_generator(QUANTIZER), catalogue).rank(QUERIES, catalogue.trie.leaves, count)
    assert np.sort(served.items[0]).tolist() == list(range(count))  # today's shoppers are shown everything
