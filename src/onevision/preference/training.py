"""Training on preference lists, with an SFT anchor and a reference that is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt
from onevision.preference.config import PreferenceConfig
from onevision.preference.dpo import listwise_dpo, reward_gap_weight
from onevision.preference.lists import PreferenceLists

REFERENCE_BATCH = 128


@dataclass(frozen=True)
class Validation:
    """What validation days say of a checkpoint: HR@10, MRR@10 and mean cosine of photo and top 10."""

    hit_rate: float
    mrr: float
    similarity: float


@dataclass
class Monitor:
    """Training monitors by step; a falling `chosen` is the known failure of DPO without an anchor."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    checks: list[Validation] = field(default_factory=list)


def align(
    model: Generator,
    prompts: Prompt,
    lists: PreferenceLists,
    item_sids: Tensor,
    config: PreferenceConfig,
    validate: Callable[[], Validation],
    seed: int,
) -> tuple[Monitor, dict[str, Tensor] | None]:
    """Train `model` in place.

    Returns:
        monitors, and the weights of the best checkpoint that passed the gate against the parent (MRR@10 higher; HR@10
        and similarity lower by no more than the tolerances), or None: then the parent goes on.
    """
    monitor = Monitor()
    parent = validate()
    monitor.checks.append(parent)
    if not len(lists) or not config.steps:
        return monitor, None
    targets = torch.from_numpy(np.concatenate([lists.winner[:, None], lists.losers], 1))
    valid = torch.from_numpy(lists.losers >= 0)
    delta = reward_gap_weight(
        torch.from_numpy(lists.winner_reward), torch.from_numpy(lists.loser_reward), config.max_delta
    )
    rows = torch.from_numpy(lists.row)
    reference = _reference(model, prompts, rows, targets, item_sids)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=0.0, fused=True
    )
    rng = np.random.default_rng([seed, 3])
    best: tuple[float, dict[str, Tensor]] | None = None
    every = max(1, config.steps // config.checks)
    for step in tqdm(range(1, config.steps + 1), desc="align preferences", disable=None):
        chosen = torch.from_numpy(rng.integers(0, len(lists), min(config.batch_size, len(lists))))
        # Without dropout: the policy is compared with a reference that had none.
        log_p = _log_probabilities(model, prompts.take(rows[chosen]), targets[chosen], item_sids)
        ratio = log_p - reference[chosen]
        preference = listwise_dpo(ratio[:, 0], ratio[:, 1:], delta[chosen], valid[chosen], config.beta).mean()
        anchor = -log_p[:, 0].mean()
        optimizer.zero_grad(set_to_none=True)
        (preference + config.anchor_weight * anchor).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _record(monitor, step, log_p, ratio, valid[chosen], preference)
        if step % every == 0:
            now = validate()
            monitor.checks.append(now)
            if _wins(now, parent, config) and (best is None or now.mrr > best[0]):
                best = now.mrr, copy.deepcopy(model.state_dict())
    return monitor, None if best is None else best[1]


def _wins(now: Validation, parent: Validation, config: PreferenceConfig) -> bool:
    return (
        now.mrr > parent.mrr
        and now.hit_rate >= parent.hit_rate - config.tolerance
        and now.similarity >= parent.similarity - config.similarity_tolerance
    )


@torch.no_grad()
def _reference(model: Generator, prompts: Prompt, rows: Tensor, targets: Tensor, item_sids: Tensor) -> Tensor:
    parts = [
        _log_probabilities(model, prompts.take(rows[part]), targets[part], item_sids)
        for part in torch.arange(len(rows)).split(REFERENCE_BATCH)
    ]
    return torch.cat(parts)


def _log_probabilities(model: Generator, prompt: Prompt, targets: Tensor, item_sids: Tensor) -> Tensor:
    """log pi of items `targets` (B, M), -1 for none (its value has no meaning)."""
    memory = model.read(prompt).repeat(targets.shape[1])
    return model.log_probability(memory, item_sids[targets.clamp_min(0).flatten()]).view(targets.shape)


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
