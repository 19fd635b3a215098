"""The reranker: what it reads against plain loops, and that it moves probability within its page alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.generators import make_catalogue, make_queries, thumbnails

from onevision.generator.choice import FEATURES, ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.generator.reranker import DECAYS, Page, Reranker, read_page

CATALOGUE, _ = make_catalogue()
QUERIES = make_queries(CATALOGUE, 5)
FOUND = 12
THUMBNAILS = thumbnails(CATALOGUE)


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onevision.generator.reranker.PLACES", 7)
    for module in ("choice", "reranker"):
        monkeypatch.setattr(f"onevision.generator.{module}.PHOTOGRAPHED", 3)


def slates(missing: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, scores, items, and how probably each was photographed."""
    torch.manual_seed(0)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:FOUND] for _ in range(3)])
    items[0, -missing:] = -1
    items[1, 3:] = -1  # less than a page
    scores = torch.randn(items.shape).masked_fill(items < 0, -1e6).log_softmax(1)
    return torch.randn(*items.shape, 4), scores, items, torch.randn(items.shape)


def fitted(features: int) -> Reranker:
    torch.manual_seed(1)
    model = Reranker(features)
    torch.nn.init.normal_(model.out.weight)
    return model.eval().requires_grad_(False)


def test_a_page_is_read_as_plain_loops_read_it() -> None:
    features, scores, items, photographed = slates()
    table = torch.from_numpy(THUMBNAILS)
    page = read_page(features, scores, items, photographed, table, torch.tensor([0, 3, 8]))
    for row in range(3):
        places = [c for c in scores[row].argsort(descending=True).tolist() if items[row, c] >= 0][:7]
        assert page.columns[row][page.there[row]].tolist() == places
        probability = scores[row][places].softmax(0).numpy()
        own = features[row][places].numpy()
        expected = probability @ own
        entropy = -(probability * scores[row][places].numpy()).sum()
        likely = sorted(places, key=lambda c: -photographed[row, c])[:3]
        weight = photographed[row][likely].softmax(0).numpy()
        alike = np.zeros((len(places), len(DECAYS)))
        for n, place in enumerate(places):
            distance = [float((table[items[row, x]] - table[items[row, place]]).norm()) for x in likely]
            alike[n] = [np.log((weight * np.exp(-decay * np.array(distance))).sum()) / decay for decay in DECAYS]
        for n, place in enumerate(places):
            known = np.log1p([0, 3, 8][row])
            wanted = [*(own[n] - own.max(0)), *(own[n] - expected), *(alike[n] - alike.max(0)), scores[row, place]]
            np.testing.assert_allclose(page.read[row, n], [*wanted, *expected, entropy, known], atol=2e-4)
        assert not page.read[row, len(places) :].any()


def test_before_it_is_fitted_it_changes_nothing() -> None:
    features, scores, items, photographed = slates()
    page = read_page(features, scores, items, photographed, torch.from_numpy(THUMBNAILS), torch.zeros(3))
    after = Reranker(page.read.shape[2]).eval().rerank(scores, page)
    torch.testing.assert_close(after[items >= 0], scores[items >= 0], atol=1e-5, rtol=0)


def test_the_page_keeps_its_probability_and_what_follows_it_its_scores() -> None:
    features, scores, items, photographed = slates()
    page = read_page(features, scores, items, photographed, torch.from_numpy(THUMBNAILS), torch.zeros(3))
    after = fitted(page.read.shape[2]).rerank(scores, page)
    torch.testing.assert_close(after.exp().sum(1), torch.ones(3))
    assert (after[items < 0] < -1e5).all()
    outside = torch.ones_like(items, dtype=torch.bool).scatter(1, page.columns, False)
    assert outside.any()
    torch.testing.assert_close(after[outside], scores[outside])
    moved = (after.exp() - scores.exp()).abs().amax(1)
    assert (moved > 0.01).all()


def test_what_is_the_same_everywhere_is_not_read() -> None:
    torch.manual_seed(0)
    read = torch.randn(6, 5, 3)
    read[..., 1] = 7.0
    there = torch.ones(6, 5, dtype=torch.bool)
    there[:, -1] = False
    page = Page(torch.arange(5).expand(6, -1), read, torch.zeros(6, 5), there)
    model = fitted(3)
    model.standardise(page)
    torch.testing.assert_close(model.mean, read[:, :-1].reshape(-1, 3).mean(0))
    other = read.clone()
    other[..., 1] = -50.0
    torch.testing.assert_close(model(page._replace(read=other)), model(page))


def test_a_choice_serves_what_its_reranker_says_and_keeps_it_in_its_files(tmp_path: Path) -> None:
    choice = make_choice()
    shoppers = choice.read(QUERIES)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:FOUND] for _ in range(5)])
    log_p = torch.randn(items.shape)
    before = choice.score(shoppers, items, log_p)
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    choice.save_pretrained(tmp_path / "without")
    page = choice.page(shoppers, items, choice.known(shoppers, items), log_p, before)
    choice.reranker = fitted(page.read.shape[2])
    after = choice.score(shoppers, items, log_p)
    torch.testing.assert_close(after, choice.reranker.rerank(before, page))
    assert (after - before).abs().max() > 0.01
    choice.save_pretrained(tmp_path / "with")
    again, without = (ChoiceModel.from_pretrained(tmp_path / name, CATALOGUE) for name in ("with", "without"))
    assert without.reranker is None
    torch.testing.assert_close(again.score(shoppers, items, log_p), after)


def test_it_reads_who_was_photographed_from_views_and_popularity() -> None:
    choice = make_choice()
    shoppers = choice.read(QUERIES)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:FOUND] for _ in range(5)])
    known, log_p = choice.known(shoppers, items), torch.randn(items.shape)
    scores = choice.score(shoppers, items, log_p)
    page = choice.page(shoppers, items, known, log_p, scores)
    alike = slice(2 * len(FEATURES), 2 * len(FEATURES) + len(DECAYS))
    for name in ("view", "popularity"):
        other = known.clone()
        other[:, ::2, FEATURES.index(name)] += 9.0
        changed = choice.page(shoppers, items, other, log_p, scores)
        assert (changed.read[..., alike] - page.read[..., alike]).abs().max() > 0.01


def test_its_work_is_counted_for_the_first_places_alone() -> None:
    choice = make_choice()
    plain = [choice.flops(found) for found in (5.0, 7.0, 100.0)]
    choice.reranker = fitted(9)
    alike, network = 3 * THUMBNAILS.shape[1], 10 * 16
    more = [choice.flops(found) - before for found, before in zip((5.0, 7.0, 100.0), plain, strict=True)]
    assert more == pytest.approx([2 * places * (alike + network) for places in (5, 7, 7)])


def make_choice() -> ChoiceModel:
    torch.manual_seed(0)
    table = item_table(CATALOGUE, QUERIES, np.arange(len(CATALOGUE.item_ids)) % 3, THUMBNAILS)
    choice = ChoiceModel(table, ["new", "old"], 3, 4).attach(CATALOGUE)
    choice.taste = torch.randn_like(choice.taste)
    return choice.eval().requires_grad_(False)
