"""Training of the encoder: InfoNCE, circle loss after a warm start, and the category (method section 3).

L = l1 * L_cl + l2 * L_circle + l3 * L_category
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onevision.encoder.circle import circle_loss
from onevision.encoder.config import EncoderConfig
from onevision.encoder.infonce import info_nce
from onevision.encoder.model import Encoder
from onevision.encoder.sampler import TrainingViews, batches

Pooled = Callable[[NDArray[np.int64]], Tensor]


@dataclass
class LossCurve:
    """Loss values by optimiser step."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, **losses: float) -> None:
        """Append one point."""
        self.steps.append(step)
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value)


def use_bf16(config: EncoderConfig) -> bool:
    """Whether to train under bf16 autocast; `auto` asks the CPU."""
    if config.precision == "auto":
        return torch.cpu._is_avx512_bf16_supported()
    return config.precision == "bf16"


def train_encoder(
    encoder: Encoder,
    views: TrainingViews,
    known_category: NDArray[np.int64],
    catalogue_row: NDArray[np.bool_],
    pooled: Pooled,
    *,
    seed: int,
) -> LossCurve:
    """Train in place.

    Args:
        known_category: (rows,) category row of every picture's product, -1 if it has none.
        catalogue_row: (rows,) whether a picture is a catalogue view: those see their category, others predict it.
        pooled: rows -> the tower's pooled vectors (n, D), with gradient unless the tower is frozen.
    """
    config = encoder.config
    rng = np.random.default_rng(seed)
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    warmup = min(0.1, 20 / config.steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1, pct_start=warmup, cycle_momentum=False
    )
    curve = LossCurve()
    encoder.train()
    stream = batches(views, config, rng)
    bf16 = use_bf16(config)
    for step in tqdm(range(config.steps), desc="align", disable=None):
        batch = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = pooled(batch.rows)
        target = torch.from_numpy(known_category[batch.rows])
        hidden = rng.random(len(batch.rows)) < config.category_dropout
        shown = np.where(catalogue_row[batch.rows] & ~hidden, known_category[batch.rows], -1)
        embedding, logits = encoder.fuse(features, torch.from_numpy(shown))
        losses = {
            "infonce": config.infonce_weight * info_nce(embedding, batch.affinity, encoder.scale),
            "category": config.category_loss_weight * _category_loss(logits, target),
        }
        if step >= config.circle_warmup * config.steps and config.circle_weight > 0:
            losses["circle"] = config.circle_weight * _circle(embedding, batch.product, batch.affinity, config)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        if step % max(1, config.steps // 100) == 0 or step == config.steps - 1:
            curve.add(step, loss=loss.item(), **{name: value.item() for name, value in losses.items()})
    encoder.eval()
    return curve


def _category_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=-1) if (target >= 0).any() else logits.sum() * 0


def _circle(embedding: Tensor, product: Tensor, affinity: Tensor, config: EncoderConfig) -> Tensor:
    same = product[:, None] == product[None]
    positive = same & ~torch.eye(len(product), dtype=torch.bool)
    # A clicked pair is neither: circle loss speaks of products, not of taste.
    negative = ~same & (affinity == 0)
    return circle_loss(embedding, positive, negative, margin=config.circle_margin, gamma=config.circle_gamma)
