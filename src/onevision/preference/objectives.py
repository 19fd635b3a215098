"""The objectives of alignment behind one interface: each is a loss (B,) of a batch of searches.

All act on the distribution that is served, pi(j | photo, shopper) over the items of a slate, and on what a reference
said of the same items once, before training; rho_j = log pi_j - log pi_ref,j.

    dpo           pairs, sigmoid DPO: mean over losers of -log sigma(beta (rho_w - rho_l)), arXiv 2305.18290
    listwise_dpo  one winner against its losers together, near losers weighing more (`dpo.listwise_dpo`)
    rank_grpo     lists drawn from the reference, rewarded by the gains of their items discounted by place: a miss at
                  rank 1 is not a total miss. Group-relative policy optimisation (arXiv 2402.03300) with the idea of
                  rank-debiased list rewards (arXiv 2510.16925); each place is credited with what comes from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onevision.preference.dpo import listwise_dpo, reward_gap_weight

CLIP = 0.2
HOPELESS = -1e5
"""A log-probability below it is of a place of the slate that holds no item."""


class Batch(NamedTuple):
    """B searches with slates of C items.

    Attributes:
        log_p: (B, C) of the policy; reference: (B, C) of the reference, without gradient.
        columns: (B, 1 + M) of the winner and its losers in the slate, -1 for what is not there; the winner always is.
        rewards: (B, 1 + M) of winner and losers.
        gains: (B, C) of every item, what a list that holds it is rewarded with.
    """

    log_p: Tensor
    reference: Tensor
    columns: Tensor
    rewards: Tensor
    gains: Tensor

    @property
    def ratios(self) -> tuple[Tensor, Tensor, Tensor]:
        """rho of winners (B,), of losers (B, M), and which losers there are (B, M) bool."""
        there = self.columns.clamp_min(0)
        rho = self.log_p.gather(1, there) - self.reference.gather(1, there)
        return rho[:, 0], rho[:, 1:], self.columns[:, 1:] >= 0


class Settings(NamedTuple):
    """What objectives are steered by; see `PreferenceConfig`."""

    beta: float
    max_delta: float
    lists: int
    list_length: int


Objective = Callable[[Batch, Settings, torch.Generator], Tensor]


def dpo(batch: Batch, settings: Settings, _: torch.Generator) -> Tensor:
    """Sigmoid DPO of every pair of a winner and a loser, mean over the losers; 0 without any."""
    winner, losers, there = batch.ratios
    loss = F.softplus(settings.beta * (losers - winner[:, None])) * there
    return loss.sum(1) / there.sum(1).clamp_min(1)


def listwise(batch: Batch, settings: Settings, _: torch.Generator) -> Tensor:
    """Listwise DPO; 0 without losers."""
    winner, losers, there = batch.ratios
    delta = reward_gap_weight(batch.rewards[:, 0], batch.rewards[:, 1:], settings.max_delta)
    some = there.any(1)
    loss = listwise_dpo(winner, losers, delta, there | ~some[:, None], settings.beta)
    return loss * some


def rank_grpo(batch: Batch, settings: Settings, generator: torch.Generator) -> Tensor:
    """Group-relative policy optimisation of lists, with the exact KL of the policy to the reference as the leash."""
    lists = draw_lists(batch.reference, settings.lists, settings.list_length, generator)
    advantage = place_advantages(discounted_gains(batch.gains, lists))
    log_ratio = place_log_p(batch.log_p, lists) - place_log_p(batch.reference, lists)
    ratio = log_ratio.masked_fill(~is_a_choice(batch.reference, lists), 0.0).clamp(-20, 20).exp()
    gained = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return settings.beta * kl(batch.log_p, batch.reference) - gained.sum(2).mean(1)


OBJECTIVES: dict[str, Objective] = {"dpo": dpo, "listwise_dpo": listwise, "rank_grpo": rank_grpo}


def draw_lists(log_p: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """(B, count, length) columns: lists drawn without replacement by the probabilities (B, C) (Plackett-Luce, as the
    largest of log-probabilities with Gumbel noise); at most C long. A slate of fewer items ends in places without."""
    length = min(length, log_p.shape[1])
    uniform = torch.rand((len(log_p), count, log_p.shape[1]), generator=generator, dtype=log_p.dtype)
    noisy = log_p.detach()[:, None] - (-uniform.clamp(1e-12, 1 - 1e-7).log()).log()
    return noisy.topk(length, dim=2).indices


def is_a_choice(log_p: Tensor, lists: Tensor) -> Tensor:
    """(B, 1, k) bool: whether two items or more of the slate are left for a place: of one, all policies agree."""
    left = (log_p > HOPELESS).sum(1)[:, None] - torch.arange(lists.shape[2])
    return (left >= 2)[:, None]


def place_log_p(log_p: Tensor, lists: Tensor) -> Tensor:
    """(B, G, k) log-probability of the item at each place of lists (B, G, k), those before it being taken."""
    chosen = log_p[:, None].expand(-1, lists.shape[1], -1).gather(2, lists)
    # What is left of the probability: 1 less the places before, in the scale of the slate's own normalisation.
    left = (1 - (chosen.exp().cumsum(2) - chosen.exp())).clamp_min(1e-6)
    return chosen - left.log()


def discounted_gains(gains: Tensor, lists: Tensor) -> Tensor:
    """(B, G, k) of gains (B, C): what each place adds to the list's NDCG."""
    length = lists.shape[2]
    discount = 1 / torch.arange(2, length + 2, dtype=gains.dtype).log2()
    ideal = (gains.sort(1, descending=True).values[:, :length] * discount).sum(1).clamp_min(1e-9)
    return gains[:, None].expand(-1, lists.shape[1], -1).gather(2, lists) * discount / ideal[:, None, None]


def place_advantages(added: Tensor) -> Tensor:
    """(B, G, k): what comes from a place on, against the group's mean, over the deviation of the whole lists' rewards.

    A place answers for itself and what follows, not for what stood before it.
    """
    onwards = added.flip(2).cumsum(2).flip(2)
    deviation = added.sum(2).std(1, correction=0)
    return (onwards - onwards.mean(1, keepdim=True)) / (deviation[:, None, None] + 1e-3)


def kl(log_p: Tensor, reference: Tensor) -> Tensor:
    """KL(pi || pi_ref) (B,) over the slate, exactly."""
    there = reference > HOPELESS
    return (log_p.exp() * (log_p - reference)).masked_fill(~there, 0.0).sum(1)
