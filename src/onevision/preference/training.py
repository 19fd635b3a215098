"""Training on preference lists, with an SFT anchor and a reference that is computed once.

The policy is what is served: the choice among what the beams found. What alignment moves in it is how shoppers are
read (profile, histories, and how much taste counts); likeness keeps the weights that validation days gave it, because
photos of training searches are too easy to learn them from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel, Shoppers
from onevision.generator.choice_training import own_clicks
from onevision.preference.config import PreferenceConfig
from onevision.preference.dpo import listwise_dpo, reward_gap_weight
from onevision.preference.lists import PreferenceLists
from onevision.semantic_ids.catalogue import Catalogue


class Slates(NamedTuple):
    """What Q searches choose among: `items` (Q, C), -1 for none, the features (Q, C, 6) of them that do not change, and
    the log-probabilities (Q, C) of their semantic IDs."""

    shoppers: Shoppers
    items: Tensor
    known: Tensor
    log_p: Tensor

    def take(self, rows: Tensor) -> Slates:
        """These rows."""
        shoppers = Shoppers(*(value[rows] for value in self.shoppers))
        return Slates(shoppers, self.items[rows], self.known[rows], self.log_p[rows])

    def scores(self, choice: ChoiceModel) -> Tensor:
        """log pi (Q, C)."""
        taste = (choice.taste[self.items.clamp_min(0)] @ choice.user(self.shoppers)[..., None]).squeeze(-1)
        scores: Tensor = choice(self.known, self.log_p, taste, self.items >= 0)
        return scores


REFERENCE_BATCH = 512


@dataclass(frozen=True)
class Validation:
    """What validation days say of a checkpoint: HR@10, NDCG@10 (orders double), mean cosine of photo and top 10."""

    hit_rate: float
    ndcg: float
    similarity: float


@dataclass
class Monitor:
    """Training monitors by step; a falling `chosen` is the known failure of DPO without an anchor.

    `usable` counts lists whose winner and at least one loser were found by the beams.
    """

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    checks: list[Validation] = field(default_factory=list)
    usable: int = 0


def make_slates(
    choice: ChoiceModel,
    queries: QuerySet,
    catalogue: Catalogue,
    found: NDArray[np.int64],
    log_p: NDArray[np.float32],
) -> Slates:
    """Slates of searches whose clicks the choice model counts, from what their beams found (Q, C): items, -1 for none,
    and log-probabilities (`GeneratorRanker.find`)."""
    shoppers = choice.read(queries)
    rows = np.arange(len(queries))
    own, items = torch.from_numpy(own_clicks(queries, catalogue, rows, found)), torch.from_numpy(found)
    known = [
        choice.known(Shoppers(*(value[part] for value in shoppers)), items[part].clamp_min(0), own[part])
        for part in np.array_split(rows, len(rows) // 512 + 1)
    ]
    return Slates(shoppers, items, torch.cat(known), torch.from_numpy(log_p).masked_fill(items < 0, 0.0))


def columns_of(lists: PreferenceLists, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns (N, 1 + M) of winner and losers among the lists' items (N, C); -1 for what is not there.

    A loser that the beams did not find is not in the winner's way.
    """
    wanted = np.concatenate([lists.winner[:, None], lists.losers], axis=1)
    matches = (items[:, None] == wanted[..., None]) & (wanted >= 0)[..., None]
    return np.where(matches.any(axis=2), matches.argmax(axis=2), -1)


def align(
    choice: ChoiceModel,
    lists: PreferenceLists,
    slates: Slates,
    config: PreferenceConfig,
    validate: Callable[[], Validation],
    seed: int,
) -> tuple[Monitor, dict[str, Tensor] | None]:
    """Train `choice` in place.

    Returns:
        monitors, and the weights of the best checkpoint that passed the gate against the parent (NDCG@10 higher; HR@10
        and similarity lower by no more than the tolerances), or None: then the parent goes on.
    """
    monitor = Monitor()
    parent = validate()
    monitor.checks.append(parent)
    row = torch.from_numpy(lists.row)
    columns = torch.from_numpy(columns_of(lists, slates.items[row].numpy()))
    usable = torch.nonzero((columns[:, 0] >= 0) & (columns[:, 1:] >= 0).any(1)).squeeze(1)
    monitor.usable = len(usable)
    if not len(usable) or not config.steps:
        return monitor, None
    delta = reward_gap_weight(
        torch.from_numpy(lists.winner_reward), torch.from_numpy(lists.loser_reward), config.max_delta
    )
    choice.requires_grad_(True)
    likeness = choice.weights.detach()[:, :-1].clone()
    with torch.no_grad():
        parts = usable.split(REFERENCE_BATCH)
        reference = torch.cat([slates.take(row[p]).scores(choice).gather(1, columns[p].clamp_min(0)) for p in parts])
    trained = [choice.segment.weight, choice.bias, choice.reading, choice.log_pseudo_items, choice.weights]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng([seed, 3])
    best: tuple[float, dict[str, Tensor]] | None = None
    every = max(1, config.steps // config.checks)
    for step in tqdm(range(1, config.steps + 1), desc="align preferences", disable=None):
        drawn = torch.from_numpy(rng.integers(0, len(usable), min(config.batch_size, len(usable))))
        chosen = usable[drawn]
        # Without dropout: the policy is compared with a reference that had none.
        log_p = slates.take(row[chosen]).scores(choice).gather(1, columns[chosen].clamp_min(0))
        valid = columns[chosen, 1:] >= 0
        ratio = log_p - reference[drawn]
        preference = listwise_dpo(ratio[:, 0], ratio[:, 1:], delta[chosen], valid, config.beta).mean()
        anchor = -log_p[:, 0].mean()
        optimizer.zero_grad(set_to_none=True)
        (preference + config.anchor_weight * anchor).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            choice.weights[:, :-1] = likeness
        _record(monitor, step, log_p, ratio, valid, preference)
        if step % every == 0:
            now = validate()
            monitor.checks.append(now)
            if _wins(now, parent, config) and (best is None or now.ndcg > best[0]):
                best = now.ndcg, copy.deepcopy(choice.state_dict())
    return monitor, None if best is None else best[1]


def _wins(now: Validation, parent: Validation, config: PreferenceConfig) -> bool:
    return (
        now.ndcg > parent.ndcg
        and now.hit_rate >= parent.hit_rate - config.tolerance
        and now.similarity >= parent.similarity - config.similarity_tolerance
    )


def _record(monitor: Monitor, step: int, log_p: Tensor, ratio: Tensor, valid: Tensor, loss: Tensor) -> None:
    with torch.no_grad():
        losers = valid.float()
        mean = losers.sum().clamp_min(1)
        values = {
            "loss": loss,
            "chosen": log_p[:, 0].mean(),
            "rejected": (log_p[:, 1:] * losers).sum() / mean,
            "accuracy": ((ratio[:, :1] > ratio[:, 1:]).float() * losers).sum() / mean,
            "kl_estimate": ratio[:, 0].mean(),
        }
    monitor.steps.append(step)
    for name, value in values.items():
        monitor.values.setdefault(name, []).append(float(value))
