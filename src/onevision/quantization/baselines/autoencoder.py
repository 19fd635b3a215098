"""How RQ-VAE and FSQ are trained: mini-batches of rows, reconstruction error plus what the codes ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onevision.quantization.config import QuantizationConfig


@dataclass(frozen=True)
class Budget:
    """What a training may cost: steps, and rows a step."""

    steps: int
    rows: int

    @classmethod
    def of(cls, config: QuantizationConfig) -> Budget:
        """As VRQ's: two views a pair, and in all the steps of its aligned levels (of one, if there are none)."""
        levels = min(config.view_levels, len(config.codebook_sizes))
        return cls(config.steps * max(1, levels), 2 * config.batch_size)


class Autoencoder(Protocol):
    """A module whose forward pass rebuilds (N, d) through codes, and returns the loss of the codes beside it."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) -> (N, d), ()."""


def train(model: nn.Module, x: Tensor, budget: Budget, *, learning_rate: float, name: str, seed: int) -> None:
    """Minimise `||x - model(x)||^2 + loss of the codes` by AdamW with a cosine schedule; ends in eval mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, budget.steps))
    rng = np.random.default_rng(seed)
    model.train()
    for _ in tqdm(range(budget.steps), desc=name, disable=None):
        batch = x[torch.from_numpy(rng.integers(0, len(x), min(budget.rows, len(x))))]
        rebuilt, extra = model(batch)
        loss = (batch - rebuilt).square().sum(1).mean() + extra
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def residual_mlp(dim: int, hidden: int) -> nn.Sequential:
    """An MLP to be added to its input: zero before training."""
    last = nn.Linear(hidden, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), last)
