"""Gradient training of the keys of one aligned level of VRQ (`vrq.py`), and of the view map where it is learnt."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onevision.quantization.config import QuantizationConfig
from onevision.quantization.kmeans import nearest
from onevision.quantization.losses import (
    category_error,
    code_agreement,
    commitment,
    margin_shortfall,
    nearest_mean_head,
    soft_codes,
    soft_prefix,
    squared_distances,
    usage,
    view_contrast,
)
from onevision.quantization.view_pairs import ViewPairs

RESTART_EVERY = 50
"""Steps after which keys that were the code of no pair's mean are moved to a view."""


@dataclass
class Level:
    """What a level is trained on.

    Attributes:
        table: (N, r) residuals as the level sees them, or (N, d) residuals where `look` is learnt.
        before: (N, r) what the codes of earlier levels say, as the level sees it.
        look: what maps rows of `table` to what the level sees; its parameters are trained with the keys.
        deepest: whether it is the last aligned level.
    """

    table: Tensor
    before: Tensor
    look: nn.Module = field(default_factory=nn.Identity)
    deepest: bool = False


@dataclass
class Trained:
    """Keys (K, r), the weighted losses by name at some 50 steps, and how many dead keys were moved."""

    keys: Tensor
    losses: dict[str, list[float]]
    restarted: int


def train_keys(
    level: Level, start: Tensor, pairs: ViewPairs, config: QuantizationConfig, rng: np.random.Generator, *, name: str
) -> Trained:
    """Train keys that start as (K, r) on view pairs: Adam with a cosine schedule, restart of dead keys.

    Args:
        name: of the level, for the progress bar.
    """
    keys = nn.Parameter(start.clone())
    with torch.no_grad():
        seen = level.look(level.table)
        scale = nearest(seen, start)[1].mean().item()
        head = _category_head(level.before + seen, pairs, scale) if config.category_weight else None
    parameters = [keys, *level.look.parameters(), *(head.parameters() if head else ())]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    taken = torch.zeros(len(start), dtype=torch.long)
    trained = Trained(start, {}, 0)
    for step in tqdm(range(config.steps), desc=name, disable=None):
        batch = pairs.chosen(rng.integers(0, len(pairs.u), min(config.batch_size, len(pairs.u))))
        u, v = level.look(level.table[batch.u]), level.look(level.table[batch.v])
        mean = (u + v) / 2
        u, v = (mean + config.view_spread * (view - mean) for view in (u, v))
        to_mean = squared_distances(mean, keys)
        code = to_mean.argmin(1).detach()
        log_u, log_v = (soft_codes(squared_distances(view, keys), config.temperature * scale) for view in (u, v))
        losses = {
            "agreement": config.agreement_weight * code_agreement(log_u, log_v, code),
            "usage": config.usage_weight * usage(torch.cat([log_u, log_v]), config.usage_floor),
            "commitment": config.commitment_weight * commitment(to_mean, code) / scale,
        }
        if config.contrast_weight or config.margin_weight or head:
            said_u = soft_prefix(level.before[batch.u], log_u, keys)
            said_v = soft_prefix(level.before[batch.v], log_v, keys)
            losses |= _prefix_losses(said_u, said_v, batch, code, config, scale, head=head, deepest=level.deepest)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()
        taken += torch.bincount(code, minlength=len(taken))
        if (step + 1) % RESTART_EVERY == 0:
            trained.restarted += _restart(keys, taken, u.detach(), rng)
        if step % max(1, config.steps // 50) == 0:
            for loss, value in losses.items():
                trained.losses.setdefault(loss, []).append(value.item())
    trained.keys = keys.detach()
    return trained


def _prefix_losses(
    u: Tensor,
    v: Tensor,
    batch: ViewPairs,
    code: Tensor,
    config: QuantizationConfig,
    scale: float,
    *,
    head: nn.Module | None,
    deepest: bool,
) -> dict[str, Tensor]:
    """The optional losses, on quantised prefixes (N, r) of both views; distances in units of `scale`."""
    losses = {}
    product = torch.from_numpy(batch.product)
    category = None if batch.category is None else torch.from_numpy(batch.category)
    apart, other = squared_distances(u, v) / scale, product[:, None] != product
    if config.contrast_weight:
        losses["contrast"] = config.contrast_weight * view_contrast(apart, other, config.temperature)
    if config.margin_weight and deepest:
        alike = code if category is None else category
        rival = other & (alike[:, None] == alike)
        losses["margin"] = config.margin_weight * margin_shortfall(apart, rival, config.margin)
    if head and category is not None:
        error = category_error(torch.cat([u, v]), category.repeat(2), head)
        losses["category"] = config.category_weight * error
    return losses


def _category_head(x: Tensor, pairs: ViewPairs, unit: float) -> nn.Linear | None:
    """A head that starts at the categories' means of what both views show; None where categories are not known."""
    if pairs.category is None:
        return None
    return nearest_mean_head((x[pairs.u] + x[pairs.v]) / 2, torch.from_numpy(pairs.category), unit)


@torch.no_grad()
def _restart(keys: Tensor, taken: Tensor, views: Tensor, rng: np.random.Generator) -> int:
    """Move keys that nothing took to views drawn at random, and count anew; returns how many."""
    dead = (taken == 0).nonzero().flatten()
    keys[dead] = views[torch.from_numpy(rng.integers(0, len(views), len(dead)))]
    taken.zero_()
    return len(dead)
