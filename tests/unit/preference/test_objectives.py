import math
from itertools import permutations

import pytest
import torch

from onevision.preference.objectives import (
    OBJECTIVES,
    Batch,
    Settings,
    discounted_gains,
    draw_lists,
    is_a_choice,
    kl,
    place_advantages,
    place_log_p,
)

SETTINGS = Settings(beta=0.3, max_delta=5.0, lists=6, list_length=4)


def make_batch(rows: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    log_p, reference = (torch.randn(rows, 9, generator=generator, dtype=torch.double).log_softmax(1) for _ in range(2))
    columns = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1], [2, -1, 7, 8], [8, 0, 1, -1], [3, -1, -1, -1]])[:rows]
    rewards = torch.tensor([2.0, 0.5, 0.2, 0.0], dtype=torch.double).expand(rows, 4)
    gains = torch.zeros(rows, 9, dtype=torch.double)
    gains.scatter_(1, columns[:, :1], 2.0)
    gains[:, 6] = 1.0
    return Batch(log_p, reference, columns, rewards, gains)


def make_uneven_batch() -> Batch:
    """The slate of the first search holds two items, that of the second as many as a list has places."""
    batch = make_batch()
    empty = torch.zeros(5, 9, dtype=torch.bool)
    empty[0, 2:], empty[1, [0, 1, 2, 3, 7]] = True, True
    log_p, reference = (p.masked_fill(empty, -1e6).log_softmax(1) for p in (batch.log_p, batch.reference))
    columns = batch.columns.masked_fill(empty.gather(1, batch.columns.clamp_min(0)), -1)
    return Batch(log_p, reference, columns, batch.rewards, batch.gains.masked_fill(empty, 0.0))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_dpo_equals_a_loop_over_pairs() -> None:
    batch = make_batch()
    got = OBJECTIVES["dpo"](batch, SETTINGS, noise())
    for n in range(5):
        rho = (batch.log_p[n] - batch.reference[n]).tolist()
        winner, losers = int(batch.columns[n, 0]), [c for c in batch.columns[n, 1:].tolist() if c >= 0]
        pairs = [-math.log(1 / (1 + math.exp(-0.3 * (rho[winner] - rho[loser])))) for loser in losers]
        assert got[n].item() == pytest.approx(sum(pairs) / max(1, len(pairs)))


def test_listwise_dpo_equals_the_formula_in_a_loop() -> None:
    batch = make_batch()
    got = OBJECTIVES["listwise_dpo"](batch, SETTINGS, noise())
    for n in range(5):
        rho = (batch.log_p[n] - batch.reference[n]).tolist()
        winner = int(batch.columns[n, 0])
        total = 0.0
        for place, loser in enumerate(batch.columns[n, 1:].tolist(), 1):
            if loser >= 0:
                delta = min(1 + (2.0 - float(batch.rewards[n, place])) ** -1.5, 5.0)
                total += math.exp(delta * 0.3 * (rho[loser] - rho[winner]))
        assert got[n].item() == pytest.approx(math.log1p(total))


@pytest.mark.parametrize("batch", [make_batch(), make_uneven_batch()], ids=["even", "uneven"])
def test_rank_grpo_equals_a_loop_over_lists_and_places(batch: Batch) -> None:
    got = OBJECTIVES["rank_grpo"](batch, SETTINGS, noise())
    lists = draw_lists(batch.reference, 6, 4, noise())
    for n in range(5):
        policy, reference = batch.log_p[n].exp().tolist(), batch.reference[n].exp().tolist()
        gains = batch.gains[n].tolist()
        ideal = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(gains, reverse=True)[:4]))
        drawn = [[item for item in row if reference[item]] for row in lists[n].tolist()]
        added = [[gains[item] / math.log2(r + 2) / ideal for r, item in enumerate(row)] for row in drawn]
        whole = [sum(row) for row in added]
        mean = sum(whole) / 6
        deviation = math.sqrt(sum((w - mean) ** 2 for w in whole) / 6) + 1e-3
        value = 0.0
        for row, gained in zip(drawn, added, strict=True):
            for place, item in enumerate(row):
                onwards = [sum(a[place:]) for a in added]
                advantage = (sum(gained[place:]) - sum(onwards) / 6) / deviation
                left = [1 - sum(p[i] for i in row[:place]) for p in (policy, reference)]
                ratio = (policy[item] / left[0]) / (reference[item] / left[1])
                value += min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage) / 6
        leash = sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True) if q)
        assert got[n].item() == pytest.approx(0.3 * leash - value, rel=1e-6)


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("batch", [make_batch(rows=3), make_uneven_batch()], ids=["even", "uneven"])
def test_gradients_are_those_of_finite_differences(name: str, batch: Batch) -> None:
    scores = batch.log_p.clone().requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return OBJECTIVES[name](batch._replace(log_p=x.log_softmax(1)), SETTINGS, noise()).sum()

    assert torch.autograd.gradcheck(loss, (scores,))


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("batch", [make_batch(), make_uneven_batch()], ids=["even", "uneven"])
def test_a_batch_in_two_parts_has_the_same_losses(name: str, batch: Batch) -> None:
    whole = OBJECTIVES[name](batch, SETTINGS, noise())
    generator = noise()
    parts = [OBJECTIVES[name](Batch(*(v[rows] for v in batch)), SETTINGS, generator) for rows in ([0, 1], [2, 3, 4])]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_step_down_the_loss_brings_the_winner_up(name: str) -> None:
    batch = make_batch(rows=4)
    start = batch.reference.clone().requires_grad_()
    settings = SETTINGS._replace(lists=200)
    OBJECTIVES[name](batch._replace(log_p=start.log_softmax(1)), settings, noise()).sum().backward()
    assert start.grad is not None
    moved = (start - 0.01 * start.grad).detach().log_softmax(1)
    winner = batch.columns[:, :1]
    assert (moved.gather(1, winner) > batch.reference.gather(1, winner)).all()


def test_places_of_a_list_multiply_to_its_plackett_luce_probability() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    lists = torch.tensor([list(permutations(range(3)))])
    probability = place_log_p(log_p, lists).sum(2).exp()[0]
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert probability[0].item() == pytest.approx(0.5 * 0.3 / 0.5)


def test_lists_are_drawn_by_their_probability_and_never_hold_what_is_not_there() -> None:
    log_p = torch.tensor([[0.7, 0.2, 0.1, 1e-9]]).log()
    log_p[0, 3] = -1e6
    lists = draw_lists(log_p, 4000, 3, noise())[0]
    assert lists.max() < 3
    assert all(len(set(row)) == 3 for row in lists[:50].tolist())
    assert (lists[:, 0] == 0).float().mean().item() == pytest.approx(0.7, abs=0.03)


def test_a_place_without_a_choice_is_none_for_the_policy() -> None:
    reference = torch.tensor([[0.9, 0.1, 1e-9], [0.5, 0.3, 0.2]]).log()
    reference[0, 2] = -1e6
    lists = draw_lists(reference, 4, 3, noise())
    assert is_a_choice(reference, lists)[:, 0].tolist() == [[True, False, False], [True, True, False]]


def test_a_miss_at_rank_one_is_not_a_total_miss() -> None:
    gains = torch.tensor([[0.0, 1.0, 0.0]])
    first, second, never = discounted_gains(gains, torch.tensor([[[1, 0], [0, 1], [0, 2]]])).sum(2)[0].tolist()
    assert first == 1
    assert first > second > never == 0


def test_a_place_answers_only_for_what_comes_from_there_on() -> None:
    advantage = place_advantages(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    assert advantage[0, 0, 0] > 0 > advantage[0, 1, 0]
    assert advantage[0, :, 1].tolist() == [0, 0]


def test_kl_is_zero_at_the_reference_and_ignores_empty_places() -> None:
    log_p = torch.tensor([[0.6, 0.4, 1e-9]]).log()
    log_p[0, 2] = -1e6
    assert kl(log_p, log_p).item() == 0
    other = torch.tensor([[0.5, 0.5, 1e-9]]).log()
    other[0, 2] = -1e6
    assert kl(log_p, other).item() == pytest.approx(0.6 * math.log(1.2) + 0.4 * math.log(0.8), rel=1e-4)
