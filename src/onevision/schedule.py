"""Learning rates over a training: up, then down (arXiv 1708.07120)."""

from __future__ import annotations

import torch


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, most_rising: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """Every group's rate rises to what it is now, over a tenth of the steps and at most `most_rising`, then falls."""
    steps = max(steps, 1)
    # A rise of half a step at least: where the peak falls on the first step there is a division by zero in there.
    rising = max(min(0.1, most_rising / steps), 1.5 / (steps + 1))
    peaks = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=steps + 1, pct_start=rising, cycle_momentum=False
    )
