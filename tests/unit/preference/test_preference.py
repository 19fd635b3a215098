import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.generators import make_catalogue, make_generator, make_queries, thumbnails

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.preference.checks import PLACES, Validation, ValidationDays
from onevision.preference.config import PreferenceConfig
from onevision.preference.dpo import listwise_dpo, reward_gap_weight
from onevision.preference.levels import CLICKED, ORDERED
from onevision.preference.lists import PreferenceLists
from onevision.preference.objectives import OBJECTIVES
from onevision.preference.reference import Reference
from onevision.preference.reward import RewardModel
from onevision.preference.slates import Slates, make_slates
from onevision.preference.training import Monitor, align, columns_of

CATALOGUE, QUANTIZER = make_catalogue()


def test_listwise_dpo_equals_the_formula_in_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    winner, losers = torch.randn(5, generator=generator), torch.randn(5, 4, generator=generator)
    delta = 1 + torch.rand(5, 4, generator=generator)
    valid = torch.tensor([[True] * 4, [True, False, True, False]] + [[True, False, False, False]] * 3)
    got = listwise_dpo(winner, losers, delta, valid, 0.3)
    for n in range(5):
        total = sum(
            math.exp(float(delta[n, m]) * 0.3 * (float(losers[n, m]) - float(winner[n])))
            for m in range(4)
            if valid[n, m]
        )
        assert got[n].item() == pytest.approx(-math.log(1 / (1 + math.exp(math.log(total)))), rel=1e-5)


def test_one_loser_and_unit_weight_is_sigmoid_dpo() -> None:
    winner, loser = torch.tensor([0.3, -1.0]), torch.tensor([[0.1], [0.5]])
    got = listwise_dpo(winner, loser, torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool), 0.1)
    torch.testing.assert_close(got, -F.logsigmoid(0.1 * (winner - loser[:, 0])))


def test_near_losers_weigh_more_and_the_weight_is_bounded() -> None:
    weight = reward_gap_weight(torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.0], [0.5, 1.9]]))
    assert weight[0].tolist() == pytest.approx([1 + 0.5**-1.5, 2.0])
    assert weight[1].tolist() == pytest.approx([1 + 1.5**-1.5, 5.0])


def make_slates_of(choice: ChoiceModel, queries: QuerySet) -> Slates:
    found = np.stack([np.random.default_rng(n).permutation(len(CATALOGUE.item_ids))[:20] for n in range(len(queries))])
    found[:, -2:] = -1
    log_p = np.where(found >= 0, -1.0, -np.inf).astype(np.float32)
    return make_slates(choice, queries, CATALOGUE, found, log_p, counted=True)


def make_choice(queries: QuerySet) -> ChoiceModel:
    torch.manual_seed(0)
    items = item_table(CATALOGUE, queries, np.zeros(len(CATALOGUE.item_ids), np.int64), thumbnails(CATALOGUE))
    choice = ChoiceModel(items, ["new", "old"], 4, 6).attach(CATALOGUE)
    choice.taste = torch.randn_like(choice.taste)
    return choice.eval()


def run(validations: list[Validation], **changes: object) -> tuple[Monitor, object, float, float]:
    queries = make_queries(CATALOGUE, 6)
    choice = make_choice(queries)
    slates = make_slates_of(choice, queries)
    winner, losers, guarded = (slates.items[:, part].numpy() for part in (0, slice(1, 3), slice(3, 6)))
    rewards = np.ones(6, np.float32), np.zeros((6, 2), np.float32)
    lists = PreferenceLists(np.arange(6), winner, rewards[0], losers, rewards[1], guarded, {})
    gains = torch.zeros(slates.items.shape)
    gains[:, 0] = 1
    config = PreferenceConfig(**{"steps": 60, "batch_size": 6, "learning_rate": 3e-2, "checks": 2} | changes)
    likeness = choice.weights.detach()[:, :-1].clone()
    answers = iter(validations)
    reference = torch.from_numpy(Reference.of(choice, queries.query_id, slates).log_p)
    monitor, best = align(choice, lists, slates, reference, gains, config, lambda: next(answers), 0)
    torch.testing.assert_close(choice.weights.detach()[:, :-1], likeness)
    return monitor, best, monitor.values["accuracy"][-1], monitor.values["chosen"][-1] - monitor.values["chosen"][0]


def test_slates_score_as_the_ranker_does_but_for_the_searches_own_clicks() -> None:
    queries = make_queries(CATALOGUE, 6)
    choice = make_choice(queries).requires_grad_(False)
    torch.nn.init.normal_(choice.weights)
    slates = make_slates_of(choice, queries)
    with torch.no_grad():
        scores = slates.scores(choice)
        served = choice.score(slates.shoppers, slates.items, slates.log_p.masked_fill(slates.items < 0, -torch.inf))
    untouched = [row for row in range(6) if CATALOGUE.numbers()[queries.clicked[row][0]] not in slates.items[row]]
    assert 0 < len(untouched) < 6
    there = slates.items >= 0
    for row in range(6):
        same = torch.allclose(scores[row][there[row]], served[row][there[row]], atol=1e-5)
        assert same == (row in untouched)


def test_columns_are_those_of_winner_and_losers_and_what_was_not_found_has_none() -> None:
    columns = columns_of(np.array([[5, 7, 3], [9, 1, -1]]), np.array([[3, 5, -1], [1, 2, 3]]))
    assert columns.tolist() == [[1, -1, 0], [-1, 0, -1]]


def test_a_check_says_of_the_parent_what_its_served_ranking_says_and_sees_who_ranks_otherwise() -> None:
    queries = make_queries(CATALOGUE, 40)
    choice = make_choice(queries).requires_grad_(False)
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE, choice)
    slates = make_slates(choice, queries, CATALOGUE, *ranker.find(queries, 30), counted=False)
    days = ValidationDays(ranker, queries, slates, None, PreferenceConfig(beam_width=30))
    checked, served = days.check(choice), days.ask(choice)
    assert checked.hit_rate == pytest.approx(served.hit_rate)
    assert checked.ndcg == pytest.approx(served.ndcg, abs=1e-6)
    assert checked.similarity == pytest.approx(served.similarity, abs=1e-6)
    other = make_choice(queries).requires_grad_(False)
    other.weights.mul_(-1)  # likes what is least alike
    assert days.check(other).similarity < checked.similarity


def test_checks_count_rewards_and_different_items() -> None:
    queries = make_queries(CATALOGUE, 12)
    choice = make_choice(queries).requires_grad_(False)
    ranker = GeneratorRanker(make_generator(QUANTIZER), CATALOGUE, choice)
    slates = make_slates(choice, queries, CATALOGUE, *ranker.find(queries, 30), counted=False)
    torch.manual_seed(0)
    reward = RewardModel(torch.ones(len(CATALOGUE.item_ids), 4)).eval().requires_grad_(False)
    config = PreferenceConfig(beam_width=30)
    checked = ValidationDays(ranker, queries, slates, reward, config).check(choice)
    found, rewards = set(), []
    scores, order = slates.scores(choice).sort(dim=1, descending=True, stable=True)
    for row in range(len(queries)):
        items = slates.items[row][order[row]][None, :PLACES]
        there = items >= 0
        shoppers = choice.read(queries.take([row]))
        read = reward.features(choice, shoppers, items.clamp_min(0), scores[row][None, :PLACES])
        rewards += reward.reward(read, CLICKED, ORDERED, config.relevance_weight)[there].tolist()
        found |= set(items[there].tolist())
    assert checked.reward == pytest.approx(np.mean(rewards), rel=1e-5)
    assert checked.distinct == len(found) < len(rewards)
    assert ValidationDays(ranker, queries, slates, None, config).check(choice).reward == 0


PARENT = Validation(0.5, 0.4, 0.8, 0.3)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_training_learns_the_preference_and_the_anchor_holds_the_chosen_up(objective: str) -> None:
    better = Validation(0.5, 0.45, 0.8, 0.3)
    monitor, best, accuracy, chosen = run([PARENT, better, PARENT], objective=objective, guard_weight=0.0)
    assert accuracy > 0.9
    assert chosen > 0
    assert best is not None
    assert len(monitor.checks) == 3


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_guards_hold_guarded_items_behind_the_winner(objective: str) -> None:
    behind = {}
    for weight in (0.0, 4.0):
        values = run([PARENT] * 3, objective=objective, guard_weight=weight)[0].values
        behind[weight] = values["chosen"][-1] - values["guarded"][-1] - values["chosen"][0] + values["guarded"][0]
    assert behind[4.0] > behind[0.0] + 0.1


@pytest.mark.parametrize(
    "child",
    [
        Validation(0.5, 0.4, 0.8, 0.3),
        Validation(0.4, 0.5, 0.8, 0.3),
        Validation(0.6, 0.5, 0.7, 0.3),
        Validation(0.6, 0.5, 0.8, 0.2),
    ],
    ids=["NDCG", "HR", "similarity", "personal"],
)
def test_the_parent_goes_on_unless_a_checkpoint_wins_on_every_count(child: Validation) -> None:
    assert run([PARENT, child, child])[1] is None


def test_training_stops_when_checks_bring_nothing_new() -> None:
    monitor, best, *_ = run([PARENT] * 4, checks=6, patience=3)
    assert best is None
    assert len(monitor.checks) == 4
    assert monitor.steps[-1] == 30


def test_monitors_hold_what_tells_a_failing_run() -> None:
    monitor, *_ = run([PARENT] * 3, steps=20)
    assert set(monitor.values) == {
        "loss", "chosen", "rejected", "guarded", "accuracy", "KL", "entropy", "expected gain"
    }  # fmt: skip
    assert monitor.values["KL"][0] == pytest.approx(0, abs=1e-5)
    assert monitor.values["KL"][-1] > 0
    assert all(len(values) == 20 for values in monitor.values.values())
