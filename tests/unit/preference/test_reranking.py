"""Fitting of the reranker: it learns what there is, keeps likeness, and no search is judged by its own clicks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.generators import make_catalogue, make_queries, thumbnails

from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.generator.reranker import Page
from onevision.preference.config import PreferenceConfig
from onevision.preference.reranking import Examples, examples_of, fit_on_both, fit_reranker, listwise_targets
from onevision.preference.slates import Slates, make_slates

CATALOGUE, _ = make_catalogue()
SEARCHES, PLACES = 400, 8
CONFIG = PreferenceConfig(rerank_epochs=2, rerank_train_epochs=1)


def planted(seed: int) -> Examples:
    """Pages where the item is wanted whose first feature is largest; it is the one least like the photo."""
    torch.manual_seed(seed)
    read = torch.randn(SEARCHES, PLACES, 3)
    there = torch.ones(SEARCHES, PLACES, dtype=torch.bool)
    log_p = torch.randn(SEARCHES, PLACES).log_softmax(1)
    wanted = torch.nn.functional.one_hot(read[..., 0].argmax(1), PLACES).float()
    page = Page(torch.arange(PLACES).expand(SEARCHES, -1), read, log_p, there)
    return Examples(page, listwise_targets(wanted), -read[..., 0])


def test_targets_are_gains_over_the_ideal_page() -> None:
    gains = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    np.testing.assert_allclose(listwise_targets(gains), [[0, 1 / ideal, 2 / ideal], [0, 1, 0], [0, 0, 0]], rtol=1e-6)


def test_it_learns_what_is_wanted_and_the_guard_holds_likeness() -> None:
    learnt, judged = planted(0), planted(1)
    parent = judged.page.log_p.exp()
    probability = {w: fit_reranker(learnt, 20, w, 0)(judged.page).exp() for w in (0.0, 1000.0)}
    assert (probability[0.0] * judged.targets).sum(1).mean() > 2 * (parent * judged.targets).sum(1).mean()
    expected = {w: float(((p - parent) * judged.cosine).sum(1).mean()) for w, p in probability.items()}
    assert expected[0.0] < -0.5
    assert expected[1000.0] > -0.05


def test_it_goes_on_from_a_start_in_units_of_its_own_and_leaves_the_start_alone() -> None:
    first, second = planted(0), planted(1)
    shifted = second._replace(page=second.page._replace(read=3 * second.page.read + 5))
    start = fit_reranker(first, 10, 0.0, 0)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    went_on = fit_reranker(shifted, 0, 0.0, 0, start)
    torch.testing.assert_close(went_on.mean, shifted.page.read.reshape(-1, 3).mean(0))
    torch.testing.assert_close(went_on.hidden.weight, start.hidden.weight)
    gained = (went_on(shifted.page).exp() * second.targets).sum(1).mean()
    assert gained > 1.5 * (second.page.log_p.exp() * second.targets).sum(1).mean()
    fit_reranker(shifted, 2, 0.0, 0, start)
    for name, value in start.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_the_same_seed_fits_the_same_and_the_callers_draws_are_left_alone() -> None:
    torch.manual_seed(5)
    first = fit_reranker(planted(0), 2, 0.0, 3)
    torch.manual_seed(5)
    again, drawn = fit_reranker(planted(0), 2, 0.0, 3), torch.rand(3)
    torch.manual_seed(5)
    planted(0)
    torch.testing.assert_close(drawn, torch.rand(3))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.out.weight, fit_reranker(planted(0), 2, 0.0, 4).out.weight)


def searches(queries: QuerySet, choice: ChoiceModel) -> tuple[QuerySet, Slates]:
    rows = range(len(queries))
    found = np.stack([np.random.default_rng(n).permutation(len(CATALOGUE.item_ids))[:20] for n in rows])
    found[:, -2:] = -1
    log_p = np.where(found >= 0, -1.0, -np.inf).astype(np.float32)
    return queries, make_slates(choice, queries, CATALOGUE, found, log_p, counted=False)


@pytest.fixture(scope="module")
def choice() -> ChoiceModel:
    torch.manual_seed(0)
    queries = make_queries(CATALOGUE, 30)
    items = item_table(CATALOGUE, queries, np.zeros(len(CATALOGUE.item_ids), np.int64), thumbnails(CATALOGUE))
    model = ChoiceModel(items, ["new", "old"], 4, 6).attach(CATALOGUE)
    model.taste = torch.randn_like(model.taste)
    return model.eval().requires_grad_(False)


def test_examples_are_pages_with_gains_and_cosines_of_their_items(choice: ChoiceModel) -> None:
    queries, slates = searches(make_queries(CATALOGUE, 30), choice)
    examples = examples_of(choice, queries, slates, CATALOGUE)
    with_gain = 0
    for row in range(30):
        for place in range(examples.page.columns.shape[1]):
            item = slates.items[row, examples.page.columns[row, place]]
            if item < 0:
                continue
            cosine = float(CATALOGUE.embedding[item] @ queries.embedding[row])
            assert examples.cosine[row, place] == pytest.approx(cosine, abs=1e-5)
            wanted = CATALOGUE.item_ids[item] in {*queries.clicked[row], *queries.carted[row], *queries.ordered[row]}
            assert bool(examples.targets[row, place] > 0) is wanted
            with_gain += wanted
    assert with_gain > 5


def test_no_search_is_judged_by_a_reranker_that_saw_its_clicks(choice: ChoiceModel) -> None:
    train, later = (searches(make_queries(CATALOGUE, count), choice) for count in (20, 30))
    fitted = fit_on_both(choice, train, later, CATALOGUE, CONFIG, 0)
    queries, slates = later
    row = next(n for n in range(30) if CATALOGUE.numbers()[queries.clicked[n][0]] in slates.items[n])
    other = next(i for i in slates.items[row].tolist() if CATALOGUE.item_ids[i] not in queries.clicked[row])
    clicked = [[CATALOGUE.item_ids[other]] if n == row else c for n, c in enumerate(queries.clicked)]
    nothing: list[list[str]] = [[] if n == row else o for n, o in enumerate(queries.ordered)]
    changed = dataclasses.replace(queries, clicked=clicked, ordered=nothing, carted=[[] for _ in nothing])
    again = fit_on_both(choice, train, (changed, slates), CATALOGUE, CONFIG, 0)
    assert torch.equal(again.scores[row], fitted.scores[row])
    differ = (again.scores != fitted.scores).any(1)
    assert differ.sum() > 15  # those of other folds
    assert not torch.equal(again.reranker.out.weight, fitted.reranker.out.weight)
    before = slates.scores(choice)
    assert (fitted.scores - before)[slates.items >= 0].abs().max() > 1e-4
