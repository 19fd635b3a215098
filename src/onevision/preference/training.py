"""Training of the served distribution on preferences, with guards and an SFT anchor:

    L = objective + w_guard dpo(winner, guarded items) + w_anchor (-log pi(winner))

The policy is what is served: the choice among what the beams found. What alignment moves in it is how shoppers are
read (profile, histories, and how much taste counts); likeness keeps the weights that validation days gave it, because
photos of training searches are too easy to learn them from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from onevision.generator.choice import ChoiceModel
from onevision.preference.checks import Validation
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import PreferenceLists
from onevision.preference.objectives import OBJECTIVES, Batch, Settings, dpo, kl
from onevision.preference.slates import Slates


@dataclass
class Monitor:
    """Training monitors by step; a falling `chosen` is the known failure of DPO without an anchor.

    `usable` counts lists whose winner and at least one loser were found by the beams; `served` are the parent and the
    best checkpoint as they would be served, where one passed the checks; `reranked` the choice that goes on without and
    with a reranker, where one was fitted.
    """

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    checks: list[Validation] = field(default_factory=list)
    served: list[Validation] = field(default_factory=list)
    reranked: list[Validation] = field(default_factory=list)
    usable: int = 0


def columns_of(wanted: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Columns (N, K) of wanted items (N, K) among items (N, C); -1 for what is not there, as for none (-1).

    A loser that the beams did not find is not in the winner's way.
    """
    matches = (items[:, None] == wanted[..., None]) & (wanted >= 0)[..., None]
    return np.where(matches.any(axis=2), matches.argmax(axis=2), -1)


def align(
    choice: ChoiceModel,
    lists: PreferenceLists,
    slates: Slates,
    reference: Tensor,
    gains: Tensor,
    config: PreferenceConfig,
    validate: Callable[[], Validation],
    seed: int,
) -> tuple[Monitor, dict[str, Tensor] | None]:
    """Train `choice` in place, until the steps are used up or `patience` checks brought nothing new.

    Args:
        reference: (Q, C) log-probabilities of the slates' items before training (`preference.reference`).
        gains: (Q, C) of the slates' items (`levels.gains_of`).

    Returns:
        monitors, and the weights of the best checkpoint that passed the gate against the parent (NDCG@10 higher; HR@10,
        of personal clicks too, and similarity lower by no more than the tolerances), or None: then the parent goes on.
    """
    monitor = Monitor()
    parent = validate()
    monitor.checks.append(parent)
    row = torch.from_numpy(lists.row)
    items = slates.items[row].numpy()
    preferred, guards = (
        torch.from_numpy(columns_of(np.concatenate([lists.winner[:, None], others], axis=1), items))
        for others in (lists.losers, lists.guarded)
    )
    usable = torch.nonzero((preferred[:, 0] >= 0) & (preferred[:, 1:] >= 0).any(1)).squeeze(1)
    monitor.usable = len(usable)
    if not len(usable) or not config.steps:
        return monitor, None
    rewards = torch.from_numpy(np.concatenate([lists.winner_reward[:, None], lists.loser_reward], axis=1))
    settings = Settings(config.beta, config.max_delta, config.lists, config.list_length)
    objective = OBJECTIVES[config.objective]
    choice.requires_grad_(True)
    likeness = choice.weights.detach()[:, :-1].clone()
    trained = [choice.segment.weight, choice.bias, choice.reading, choice.log_pseudo_items, choice.weights]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    rng, noise = np.random.default_rng([seed, 3]), torch.Generator().manual_seed(seed)
    best: tuple[float, dict[str, Tensor]] | None = None
    highest, since = parent.ndcg, 0
    every = max(1, config.steps // config.checks)
    for step in tqdm(range(1, config.steps + 1), desc="align preferences", disable=None):
        chosen = usable[torch.from_numpy(rng.integers(0, len(usable), min(config.batch_size, len(usable))))]
        # Without dropout: the policy is compared with a reference that had none.
        log_p = slates.take(row[chosen]).scores(choice)
        batch = Batch(log_p, reference[row[chosen]], preferred[chosen], rewards[chosen], gains[row[chosen]])
        guarded = batch._replace(columns=guards[chosen])
        preference = objective(batch, settings, noise).mean()
        guard = dpo(guarded, settings, noise).mean()
        anchor = -log_p.gather(1, batch.columns[:, :1]).mean()
        optimizer.zero_grad(set_to_none=True)
        (preference + config.guard_weight * guard + config.anchor_weight * anchor).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            choice.weights[:, :-1] = likeness
            _record(monitor, step, batch, guarded, preference)
        if step % every == 0:
            now = validate()
            monitor.checks.append(now)
            if now.wins(parent, config) and (best is None or now.ndcg > best[0]):
                best = now.ndcg, copy.deepcopy(choice.state_dict())
            highest, since = (now.ndcg, 0) if now.ndcg > highest else (highest, since + 1)
            if since >= config.patience:
                break
    return monitor, None if best is None else best[1]


def _record(monitor: Monitor, step: int, batch: Batch, guarded: Batch, loss: Tensor) -> None:
    winner, losers, there = batch.ratios
    count = there.sum().clamp_min(1)
    values = {
        "loss": loss,
        "chosen": batch.log_p.gather(1, batch.columns[:, :1]).mean(),
        "rejected": _mean_of_losers(batch),
        "guarded": _mean_of_losers(guarded),
        "accuracy": ((winner[:, None] > losers) & there).sum() / count,
        "KL": kl(batch.log_p, batch.reference).mean(),
        "entropy": -(batch.log_p.exp() * batch.log_p).sum(1).mean(),
        "expected gain": (batch.log_p.exp() * batch.gains).sum(1).mean(),
    }
    monitor.steps.append(step)
    for name, value in values.items():
        monitor.values.setdefault(name, []).append(float(value))


def _mean_of_losers(batch: Batch) -> Tensor:
    losers = batch.columns[:, 1:]
    there = losers >= 0
    return (batch.log_p.gather(1, losers.clamp_min(0)) * there).sum() / there.sum().clamp_min(1)
