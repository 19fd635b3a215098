"""The choice model: against loops, against recomputed tables, and on a shop whose tastes are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.generators import HOUR, entered_at, make_catalogue, make_generator, make_queries, thumbnails

from onevision.artifacts import read_json, write_json
from onevision.decoding.ranker import GeneratorRanker
from onevision.errors import ArtifactError
from onevision.features.queries import QuerySet
from onevision.generator.candidates import Candidates
from onevision.generator.choice import FEATURES, GUIDING, HISTORIES, SETTINGS, WEIGHTS, ChoiceModel, Shoppers
from onevision.generator.choice_fitting import fit_choice
from onevision.generator.choice_items import item_table
from onevision.generator.choice_training import (
    calibrate_choice,
    choice_loss,
    clicks_among,
    name_intents,
)
from onevision.generator.config import GeneratorTrainingConfig
from onevision.metrics.ranking import mrr

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE)
CATEGORY = np.arange(len(CATALOGUE.item_ids)) % 3
THUMBNAILS = thumbnails(CATALOGUE)
CONFIG = GeneratorTrainingConfig(choice_candidates=20, choice_epochs=80, taste_rank=2, guidance=(0.0, 1.0))


def make_choice(queries: QuerySet = QUERIES, seed: int = 0) -> ChoiceModel:
    torch.manual_seed(seed)
    model = ChoiceModel(item_table(CATALOGUE, queries, CATEGORY, THUMBNAILS), ["new", "old"], 3, 4).attach(CATALOGUE)
    model.taste = torch.randn_like(model.taste)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


def without(shoppers: Shoppers, row: int) -> Shoppers:
    return Shoppers(*(value[row : row + 1] for value in shoppers))


@pytest.mark.parametrize("slots", [4096, 2])  # items and histories fall into one slot never, or always
def test_scores_are_those_of_plain_loops(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    monkeypatch.setattr("onevision.generator.choice.HISTORY_SLOTS", slots)
    model = make_choice()
    shoppers = model.read(QUERIES)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:7] for _ in range(len(QUERIES))])
    log_p = torch.randn(items.shape)
    scores = model.score(shoppers, items, log_p)
    number = CATALOGUE.numbers()
    for row in range(len(QUERIES)):
        photo = QUERIES.embedding[row]
        user = model.bias + model.segment.weight[{"new": 1, "old": 2}.get(QUERIES.segment[row] or "", 0)]
        for weight, name in zip(
            model.reading, ("recent_clicked", "recent_searched", "recent_ordered", "long_history"), strict=True
        ):
            known = [number[i] for i in getattr(QUERIES, name)[row]][:4]
            for item in known:
                user = user + weight * model.taste[item] / (len(known) + model.log_pseudo_items.exp())
        again = [number[i] for i in QUERIES.long_history[row]][:4]
        views = [max(CATALOGUE.view_embedding[CATALOGUE.view_item == i] @ photo) for i in items[row].tolist()]
        likely = np.exp(40 * np.array(views)) / np.exp(40 * np.array(views)).sum()
        logits = np.zeros((2, items.shape[1]))
        for place, item in enumerate(items[row].tolist()):
            clicked = [q for q in range(len(QUERIES)) if CATALOGUE.item_ids[item] in QUERIES.clicked[q]]
            after = QUERIES.embedding[clicked].sum(0) + 2.0 * CATALOGUE.embedding[item]
            new = bool(CATALOGUE.table["cold"][item].as_py())
            usual = len(QUERIES) / len(CATALOGUE.item_ids)  # all items were there all the time
            taken = sum(np.exp(-n / 30) for n, i in enumerate(again) if i == item)
            features = [
                10 * max(CATALOGUE.view_embedding[v] @ photo for v in np.flatnonzero(CATALOGUE.view_item == item)),
                10 * CATALOGUE.embedding[item] @ photo,
                10 * after @ photo / np.linalg.norm(after),
                np.log(max(float(QUERIES.category[row, CATEGORY[item]]), 1e-3)),
                np.log((len(clicked) + 0.5) / (usual + 0.5)),
                float(new),
                np.log1p(taken / (10 * (len(clicked) + 0.5) / float((model.item_clicks + 0.5).sum()))),
                -sum(
                    p * np.linalg.norm(THUMBNAILS[i] - THUMBNAILS[item])
                    for p, i in zip(likely, items[row], strict=True)
                ),
                float(log_p[row, place]),
                float(model.taste[item] @ user),
            ]
            logits[:, place] = model.weights.numpy() @ np.array(features)
        shares = model.intent.softmax(0).numpy()
        expected = sum(share * np.exp(one) / np.exp(one).sum() for share, one in zip(shares, logits, strict=True))
        np.testing.assert_allclose(scores[row].exp().numpy(), expected, rtol=2e-3, atol=1e-6)


def test_an_item_is_as_alike_with_missing_candidates_as_without() -> None:
    model = make_choice()
    shoppers, place = without(model.read(QUERIES), 0), FEATURES.index("alike")
    items = torch.arange(12)[None]
    alone = model.known(shoppers, items)[..., place]
    padded = model.known(shoppers, torch.cat([items, torch.full((1, 5), -1)], 1))[..., place]
    torch.testing.assert_close(padded[:, :12], alone)
    assert alone.max() < 0
    assert int(alone.argmax()) == int((CATALOGUE.embedding[:12] @ QUERIES.embedding[0]).argmax())


def test_the_effect_of_a_history_is_that_of_leaving_it_out() -> None:
    model = make_choice()
    shoppers = model.read(QUERIES)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:5] for _ in range(len(QUERIES))])
    items[0, 3:] = -1
    effect = model.history_effect(shoppers, items)
    nobody = dataclasses.replace(
        QUERIES, segment=[None] * len(QUERIES), **{name: [[] for _ in QUERIES.segment] for name in HISTORIES}
    )
    no_codes = torch.zeros(items.shape)
    strangers = model.score(model.read(nobody), items, no_codes)
    expected = model.score(shoppers, items, no_codes) - strangers
    torch.testing.assert_close(effect[items >= 0], expected[items >= 0])
    assert effect.abs().max() > 0.1
    assert (effect[0, 3:] == 0).all()
    assert (model.history_effect(model.read(nobody), items) == 0).all()


def test_what_was_taken_lately_and_often_counts_more() -> None:
    model = make_choice()
    queries = QUERIES.take([0, 0, 0])
    one, other, third = CATALOGUE.item_ids[:3]
    queries.long_history = [[one, other, "gone", one], [other, one], []]
    place = FEATURES.index("again")
    model.item_clicks.fill_(3.0)
    again = model.known(model.read(queries), torch.arange(len(CATALOGUE.item_ids)).expand(3, -1))[..., place]
    number = CATALOGUE.numbers()
    assert again[0, number[one]] > again[0, number[other]] > again[0, number[third]] == 0
    assert again[1, number[other]] > again[1, number[one]] > 0
    assert not again[2].any()


def test_a_feature_that_was_not_known_then_counts_nothing(tmp_path: Path) -> None:
    model = make_choice()
    model.weights[:, FEATURES.index("again")] = 0
    model.save_pretrained(tmp_path)
    settings, tensors = read_json(tmp_path / SETTINGS), load_file(tmp_path / WEIGHTS)
    older = [name for name in FEATURES if name != "again"]
    tensors["weights"] = tensors["weights"][:, [FEATURES.index(name) for name in older]].contiguous()
    del tensors["item_key"]
    write_json(tmp_path / SETTINGS, settings | {"features": older})
    save_file(tensors, tmp_path / WEIGHTS)
    torch.testing.assert_close(ChoiceModel.from_pretrained(tmp_path, CATALOGUE).weights, model.weights)


def test_own_clicks_are_taken_out_of_what_items_are_known_by() -> None:
    others = QUERIES.take(np.arange(1, len(QUERIES)))
    model, other = make_choice(), make_choice(others)
    shoppers = without(model.read(QUERIES), 0)
    items = torch.arange(len(CATALOGUE.item_ids))[None]
    own = torch.zeros(items.shape)
    own[0, CATALOGUE.numbers()[QUERIES.clicked[0][0]]] = 1
    seen, blind = model.known(shoppers, items, own), other.known(shoppers, items)
    torch.testing.assert_close(seen[..., :4], blind[..., :4], rtol=1e-4, atol=1e-4)
    clicked = own[0] > 0
    level = model.known(shoppers, items)[..., 4] - blind[..., 4]  # the usual count moves by a constant
    assert (seen[0, clicked, 4] < model.known(shoppers, items)[0, clicked, 4]).all()
    assert torch.isfinite(level).all()


def test_padding_and_batch_change_nothing() -> None:
    model = make_choice()
    shoppers = model.read(QUERIES)
    items = torch.stack([torch.randperm(len(CATALOGUE.item_ids))[:6] for _ in range(len(QUERIES))])
    log_p = torch.randn(items.shape)
    whole = model.score(shoppers, items, log_p)
    padded = torch.cat([items, torch.full((len(items), 3), -1)], 1)
    more = model.score(shoppers, padded, torch.cat([log_p, torch.full((len(items), 3), -torch.inf)], 1))
    torch.testing.assert_close(more[:, :6], whole)
    assert (more[:, 6:] == -torch.inf).all()
    for row in range(len(QUERIES)):
        one = model.score(without(shoppers, row), items[row : row + 1], log_p[row : row + 1])
        torch.testing.assert_close(one[0], whole[row])


def test_traits_of_a_node_are_the_mean_of_the_items_below_it() -> None:
    model = make_choice()
    bucket = torch.from_numpy(CATALOGUE.bucket)
    means = model.node_traits(CATALOGUE.trie, bucket)
    sids = CATALOGUE.codes.astype(np.int64)
    for depth, table in enumerate(means, 1):
        prefixes = sorted({tuple(sid[:depth]) for sid in sids.tolist()})
        assert len(table) == len(prefixes)
        for node, prefix in enumerate(prefixes):
            below = [n for n, sid in enumerate(sids.tolist()) if tuple(sid[:depth]) == prefix]
            torch.testing.assert_close(table[node, :3], model.taste[below].mean(0), rtol=1e-4, atol=1e-5)


def test_guided_beams_go_where_the_taste_is_and_keep_their_log_probabilities() -> None:
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE)
    plain, log_p = ranker.find(QUERIES, CATALOGUE.trie.leaves)
    choice = make_choice()
    ranker.use_choice(choice)
    guided, guided_log_p = ranker.find(QUERIES, CATALOGUE.trie.leaves)
    for row in range(len(QUERIES)):
        both = [
            dict(zip(i[row].tolist(), s[row].tolist(), strict=True))
            for i, s in ((plain, log_p), (guided, guided_log_p))
        ]
        assert both[0].keys() == both[1].keys()
        for item, score in both[0].items():
            assert both[1][item] == pytest.approx(score, abs=1e-4)
    liked = int(CATALOGUE.bucket[0])
    choice.taste = torch.zeros_like(choice.taste)
    choice.taste[CATALOGUE.bucket == liked] = 1e4
    torch.nn.init.zeros_(choice.weights)
    choice.weights[1, -1] = 1.0
    torch.nn.init.ones_(choice.bias)
    torch.nn.init.zeros_(choice.segment.weight)
    torch.nn.init.zeros_(choice.reading)
    ranker.use_choice(choice)
    found, _ = ranker.find(QUERIES, 1)
    assert (CATALOGUE.bucket[found[:, 0]] == liked).all()


def test_guided_beams_find_what_looks_like_what_was_photographed() -> None:
    """Of items that look like the likeliest one the beams hold more, the more that counts."""
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE)
    choice = make_choice()
    torch.nn.init.zeros_(choice.weights)
    distances = []
    for weight in (0.0, 50.0):
        choice.weights[:, FEATURES.index("alike")] = weight
        ranker.use_choice(choice)
        found, log_p = ranker.find(QUERIES, 8)
        pictures = choice.item_thumbnail[found]
        best = np.take_along_axis(found, log_p.argmax(1)[:, None], 1)
        distance = (pictures - choice.item_thumbnail[best]).norm(dim=-1)
        distances.append(float(distance[torch.from_numpy(found >= 0)].mean()))
    assert distances[1] < 0.8 * distances[0]


def test_looks_of_a_node_tell_how_far_the_items_below_it_are() -> None:
    model = make_choice()
    thumbnail = model.item_thumbnail[:, :GUIDING]
    sids = CATALOGUE.codes.astype(np.int64)
    for depth, table in enumerate(model.node_looks(CATALOGUE.trie, torch.from_numpy(CATALOGUE.bucket)), 1):
        for node, prefix in enumerate(sorted({tuple(sid[:depth]) for sid in sids.tolist()})):
            below = [n for n, sid in enumerate(sids.tolist()) if tuple(sid[:depth]) == prefix]
            square = (thumbnail[below] - thumbnail[0]).square().sum(1).mean()
            mean, length = table[node, :-1], table[node, -1]
            torch.testing.assert_close(length - 2 * mean @ thumbnail[0] + thumbnail[0].square().sum(), square)


def test_it_is_read_back_as_it_was_written_and_only_for_its_own_items(tmp_path: Path) -> None:
    model = make_choice()
    model.guidance = 0.5
    model.save_pretrained(tmp_path)
    again = ChoiceModel.from_pretrained(tmp_path, CATALOGUE)
    assert again.guidance == 0.5
    items = torch.arange(len(CATALOGUE.item_ids)).expand(len(QUERIES), -1)
    log_p = torch.zeros(items.shape)
    torch.testing.assert_close(
        again.score(again.read(QUERIES), items, log_p), model.score(model.read(QUERIES), items, log_p)
    )
    other = dataclasses.replace(CATALOGUE, item_ids=[f"x{n}" for n in range(len(CATALOGUE.item_ids))])
    with pytest.raises(ArtifactError, match="trained on other items"):
        ChoiceModel.from_pretrained(tmp_path, other)


def shop_with_tastes(count: int, seed: int) -> tuple[QuerySet, np.ndarray]:
    """Searches whose users like one of two kinds of items, which their history and nothing else gives away."""
    rng = np.random.default_rng(seed)
    kind = np.arange(len(CATALOGUE.item_ids)) % 2
    queries = make_queries(CATALOGUE, count, seed)
    names = np.array(CATALOGUE.item_ids)
    near = Candidates.of_the_shop(CATALOGUE, queries, 10, 0).items[:, :10]
    for row in range(count):
        likes = row % 2
        liked = near[row][kind[near[row]] == likes]
        queries.clicked[row] = [str(names[liked[0]])] if len(liked) else []
        history = [str(n) for n in rng.choice(names[kind == likes], 4)]
        queries.recent_clicked[row], queries.long_history[row] = history, history
        queries.recent_searched[row], queries.recent_ordered[row], queries.segment[row] = [], [], None
    return queries, kind


def test_tastes_are_learnt_from_clicks_and_read_from_histories() -> None:
    train, kind = shop_with_tastes(300, 1)
    later, _ = shop_with_tastes(120, 2)
    traits = np.stack([2.0 * kind - 1, np.ones(len(kind))], 1).astype(np.float32)
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE)
    fitted = fit_choice(ranker, item_table(CATALOGUE, train, CATEGORY, THUMBNAILS), traits, train, later, CONFIG, 3)
    test, _ = shop_with_tastes(100, 4)
    test = test.take([row for row, clicked in enumerate(test.clicked) if clicked])
    number = CATALOGUE.numbers()
    relevant = [[number[clicked[0]]] for clicked in test.clicked]
    likes = kind[[number[history[0]] for history in test.long_history]]
    strangers = test.with_histories_of(np.array([np.flatnonzero(likes != mine)[0] for mine in likes]))
    own, other = (mrr(ranker.rank(q, 20, 10).items, relevant, 10).mean() for q in (test, strangers))
    assert own > other + 0.15
    assert fitted.tables()[0].rows[-1][0] == "taste"


def test_the_gradient_of_tastes_is_the_same_for_any_number_of_threads() -> None:
    model = make_choice()
    items = torch.randint(0, len(model.taste), (1024, 200), generator=torch.Generator().manual_seed(1))
    before, gradients = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            model.taste = model.taste.detach().requires_grad_()
            (model.tastes(items) * torch.arange(1024.0)[:, None, None].sin()).sum().backward()
            gradients.append(model.taste.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_calibration_lowers_the_loss_and_a_few_clicks_move_it_little() -> None:
    queries, _ = shop_with_tastes(200, 5)
    model = make_choice(queries)
    shoppers = model.read(queries)
    near = Candidates.of_the_shop(CATALOGUE, queries, 20, 0).items[:, :20]
    found = Candidates.found(near, np.zeros(near.shape, np.float32))
    clicks = clicks_among(model, shoppers, queries, CATALOGUE, found, CONFIG, counted=False)
    model.requires_grad_(True)
    everything = torch.arange(len(clicks.row))
    before, start = float(choice_loss(model, clicks, shoppers, everything)), model.weights.detach().clone()
    calibrate_choice(model, [clicks], shoppers)
    assert float(choice_loss(model, clicks, shoppers, everything)) < before - 0.05
    moved = float((model.weights - start).norm())
    few = make_choice(queries)
    few.requires_grad_(True)
    two = clicks._replace(**{name: getattr(clicks, name)[:1] for name in clicks._fields})
    calibrate_choice(few, [two], shoppers)
    assert float((few.weights - start).norm()) < moved


def test_the_first_intent_is_the_surer_one_whatever_place_it_had() -> None:
    for surer in (0, 1):
        model = make_choice()
        model.weights[surer] *= 5
        model.weights[1 - surer] /= 5
        shoppers = model.read(QUERIES)
        among = Candidates.of_the_shop(CATALOGUE, QUERIES, 15, 0)
        clicks = clicks_among(model, shoppers, QUERIES, CATALOGUE, among, CONFIG, counted=True)
        sharp, share = model.weights[surer].clone(), model.intent[surer].clone()
        everything = torch.arange(len(clicks.row))
        before = float(choice_loss(model, clicks, shoppers, everything))
        name_intents(model, [clicks], shoppers)
        torch.testing.assert_close(model.weights[0], sharp)
        torch.testing.assert_close(model.intent[0], share)
        assert float(choice_loss(model, clicks, shoppers, everything)) == pytest.approx(before)


def test_beams_are_pulled_by_what_both_intents_want_in_whatever_order() -> None:
    model = make_choice()
    shoppers, share = model.read(QUERIES), model.intent.softmax(0)
    pull = model.pull(shoppers)
    weight = dict(zip(FEATURES, (share[:, None] * model.weights).sum(0), strict=True))
    torch.testing.assert_close(pull[:, :-2], model.guidance * weight["taste"] * model.user(shoppers))
    torch.testing.assert_close(pull[0, -2:], model.guidance * torch.stack([weight["popularity"], weight["new"]]))
    model.weights.data, model.intent.data = model.weights.flip(0), model.intent.flip(0)
    torch.testing.assert_close(model.pull(shoppers), pull)


def test_a_click_is_set_against_its_candidates_once() -> None:
    model = make_choice()
    shoppers = model.read(QUERIES)
    among = Candidates.of_the_shop(CATALOGUE, QUERIES, 15, 0)
    clicks = clicks_among(model, shoppers, QUERIES, CATALOGUE, among, CONFIG, counted=True)
    number = CATALOGUE.numbers()
    for place, row in enumerate(clicks.row.tolist()):
        items = clicks.items[place][clicks.valid[place]].tolist()
        assert items[0] == number[QUERIES.clicked[row][0]]
        assert items.count(items[0]) == 1
        assert set(items) == {*among.items[row].tolist(), items[0]} - {-1}


def test_clicks_are_set_against_the_time_that_an_item_was_there() -> None:
    start, end = QUERIES.ts.min(), QUERIES.ts.max()
    created = np.full(len(CATALOGUE.item_ids), start - HOUR)
    created[:10], created[10:15] = (start + end) // 2, end + HOUR
    items = item_table(entered_at(CATALOGUE, created), QUERIES, CATEGORY, THUMBNAILS)
    expected = items.expected.double().numpy()
    assert expected.sum() == pytest.approx(items.clicks.sum())
    np.testing.assert_allclose(expected[:10], expected[20] / 2, rtol=1e-5)
    assert (expected[10:15] == 0).all()
    np.testing.assert_allclose(expected[15:], expected[20])
