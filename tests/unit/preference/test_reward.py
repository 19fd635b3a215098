from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.generators import make_catalogue, make_queries, thumbnails

from onevision.artifacts import finish_artifact, start_artifact
from onevision.errors import ArtifactError
from onevision.features.queries import QuerySet
from onevision.generator.choice import COSINE_SCALE, ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.preference.rates import corrected_rates, item_counts, outcomes_of
from onevision.preference.reward import READ, UNKNOWN_OF_NEW, RewardModel, click_probabilities, reward_loss
from onevision.preference.reward_fitting import fit_reward, shown_pairs
from onevision.preference.slates import Slates, make_slates

CATALOGUE, _ = make_catalogue()
ITEMS = len(CATALOGUE.item_ids)


def searches(count: int, seed: int) -> tuple[QuerySet, Slates, ChoiceModel]:
    """Searches that show ten items each, of which the one most like the photo is clicked, and some bought."""
    rng = np.random.default_rng(seed)
    queries = make_queries(CATALOGUE, count, seed)
    shown = np.stack([rng.permutation(ITEMS)[:10] for _ in range(count)])
    cosine = np.einsum("qkd,qd->qk", CATALOGUE.embedding[shown], queries.embedding)
    best = shown[np.arange(count), (cosine + 0.2 * rng.normal(size=cosine.shape)).argmax(1)]
    queries.shown = [[CATALOGUE.item_ids[i] for i in row] for row in shown]
    queries.clicked = [[CATALOGUE.item_ids[i]] if rng.random() < 0.9 else [] for i in best]
    queries.carted = [clicked if rng.random() < 0.7 else [] for clicked in queries.clicked]
    queries.ordered = [carted if rng.random() < 0.6 else [] for carted in queries.carted]
    torch.manual_seed(0)
    items = item_table(CATALOGUE, queries, np.zeros(ITEMS, np.int64), thumbnails(CATALOGUE))
    choice = ChoiceModel(items, ["new", "old"], 4, 6).attach(CATALOGUE).eval().requires_grad_(False)
    found = np.stack([rng.permutation(ITEMS)[:30] for _ in range(count)])
    log_p = np.full(found.shape, -1.0, np.float32)
    return queries, make_slates(choice, queries, CATALOGUE, found, log_p, counted=False), choice


def write_pairs(path: Path, queries: QuerySet, split: list[str]) -> Path:
    start_artifact(path)
    columns = {"query_id": queries.query_id, "split": split, "shown": queries.shown, "clicked": queries.clicked}
    lists = pa.list_(pa.string())
    columns |= {"carted": pa.array(queries.carted, lists), "ordered": pa.array(queries.ordered, lists)}
    pq.write_table(pa.table(columns), path / "queries.parquet")
    finish_artifact(path, "pairs")
    return path


def test_counts_and_outcomes_are_those_of_the_log(tmp_path: Path) -> None:
    queries, slates, _ = searches(20, 1)
    pairs = write_pairs(tmp_path / "pairs", queries, ["train"] * 15 + ["test"] * 5)
    counts = item_counts(pairs, CATALOGUE)
    outcomes = outcomes_of(queries, CATALOGUE, slates.items)
    for item in range(ITEMS):
        name = CATALOGUE.item_ids[item]
        lists = (queries.shown, queries.clicked, queries.carted, queries.ordered)
        assert counts[item].tolist() == [sum(name in row for row in rows[:15]) for rows in lists]
    for row in range(20):
        for place, rows in enumerate((queries.shown, queries.clicked, queries.carted, queries.ordered)):
            there = [CATALOGUE.item_ids[item] in rows[row] for item in slates.items[row].tolist()]
            assert outcomes[row, :, place].tolist() == there


def test_a_rate_of_few_observations_is_near_the_usual_one() -> None:
    everything = torch.tensor([1000.0, 100.0, 20.0, 10.0])
    unknown, lucky, proven = corrected_rates(
        torch.tensor([[0.0, 0, 0, 0], [1.0, 1, 0, 0], [500.0, 500, 0, 0]]), everything
    )
    assert unknown.tolist() == [0, 0, 0, 0]
    assert 0 < lucky[0] < 0.5 < proven[0]
    assert proven[0].item() == pytest.approx(np.log((500 / 0.1 + 20) / 520))
    assert proven[3] == torch.tensor(501.0).log()


def test_the_loss_is_that_of_click_and_of_order_as_a_product() -> None:
    logits = torch.tensor([[0.3, -1.0], [-2.0, 0.5], [1.0, 2.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    total = 0.0
    for (z, after), (clicked, ordered) in zip(logits.sigmoid().tolist(), labels.tolist(), strict=True):
        total -= np.log(z if clicked else 1 - z) + np.log(z * after if ordered else 1 - z * after)
    assert reward_loss(logits, labels).item() == pytest.approx(total / 3, rel=1e-5)


def test_what_came_of_a_search_is_not_among_what_is_read_of_it(tmp_path: Path) -> None:
    queries, slates, choice = searches(30, 2)
    pairs = write_pairs(tmp_path / "pairs", queries, ["train"] * 30)
    model = RewardModel(item_counts(pairs, CATALOGUE))
    shown = shown_pairs(model, choice, (queries, slates), CATALOGUE, counted=True)
    click_rate = shown.features[:, READ.index("click rate")]
    once = CATALOGUE.item_ids[int((model.counts[:, 1] == 1).nonzero()[0])]
    row = next(n for n, clicked in enumerate(queries.clicked) if once in clicked)
    number = CATALOGUE.numbers()[once]
    place = (slates.items[row] == number).nonzero()
    if len(place):
        mine = (shown.row == row) & (shown.labels[:, 0] == 1)
        assert (click_rate[mine] <= 0).all()
    assert len(shown.row) == sum(
        len({CATALOGUE.numbers()[i] for i in queries.shown[n]} & set(slates.items[n].tolist())) for n in range(30)
    )


def test_a_fitted_model_knows_clicks_from_non_clicks_and_survives_its_file(tmp_path: Path) -> None:
    train, validation = searches(300, 3), searches(150, 4)
    pairs = write_pairs(tmp_path / "pairs", train[0], ["train"] * 300)
    later = validation[0]
    choice = train[2]
    fitted = fit_reward(choice, pairs, CATALOGUE, (train[0], train[1]), (later, validation[1]), 0)
    assert fitted is not None
    assert set(fitted.quality) == {"none", "temperature", "Platt", "isotonic", "UMNN"}
    assert fitted.quality["UMNN"]["log loss"] < 0.28  # of one click in ten it would be 0.33
    assert fitted.quality["UMNN"]["ECE"] < 0.08
    assert len(fitted.tables()) == 2
    assert "<svg" in fitted.figures()[0].content
    fitted.model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path)
    shoppers = choice.read(later.take([0, 1]))
    items = np.array([[3, 7, -1], [5, -1, -1]])
    scores = np.where(items >= 0, -1.5, -np.inf).astype(np.float32)
    first, second = (click_probabilities(m, choice, shoppers, items, scores) for m in (fitted.model, again))
    np.testing.assert_array_equal(first, second)
    assert (first[items < 0] == 0).all()
    assert ((first > 0) & (first < 1))[items >= 0].all()
    outcome = again.outcome(torch.randn(9, len(READ)))
    assert (outcome.order <= outcome.click).all()


def test_the_reward_is_of_click_order_and_likeness() -> None:
    torch.manual_seed(0)
    model = RewardModel(torch.ones(ITEMS, 4)).eval().requires_grad_(False)
    features = torch.randn(6, len(READ))
    features[:, READ.index("view")] = COSINE_SCALE * torch.tensor([0.9, 0.5, 0.1, 0.0, -0.3, 1.0])
    outcome = model.outcome(features)
    expected = 1.0 * (outcome.click - outcome.order) + 2.0 * outcome.order
    expected += 0.5 * torch.tensor([0.9, 0.5, 0.1, 0.0, 0.0, 1.0])
    torch.testing.assert_close(model.reward(features, 1.0, 2.0, 0.5), expected)


def test_a_log_without_impressions_gives_no_reward_model(tmp_path: Path) -> None:
    queries, slates, choice = searches(60, 5)
    queries.shown = [[] for _ in queries.shown]
    pairs = write_pairs(tmp_path / "pairs", queries, ["train"] * 60)
    assert fit_reward(choice, pairs, CATALOGUE, (queries, slates), (queries, slates), 0) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "reward.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="reward"):
        RewardModel.from_pretrained(tmp_path)


def test_of_a_new_item_it_is_not_believed_that_nobody_wants_it() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(15000, len(READ), generator=generator)
    popularity = features[:, UNKNOWN_OF_NEW[0]].clone()
    features[:, UNKNOWN_OF_NEW] += 3
    truth = (2 * features[:, 0] - 1 + 1.5 * popularity).sigmoid()
    clicked = torch.bernoulli(truth, generator=generator)
    model = RewardModel(torch.ones(1, 4)).fit(features, torch.stack([clicked, clicked], 1), 0)
    new = features.clone()
    new[:, UNKNOWN_OF_NEW] = 0  # as far below the usual as an item can be
    predicted = model(new)[:, 0].sigmoid()
    assert predicted.mean().item() == pytest.approx(truth.mean().item(), abs=0.08)
    likely = features[:, 0] > 0
    assert predicted[likely].mean() > predicted[~likely].mean() + 0.3
