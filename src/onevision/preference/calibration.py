"""From scores to probabilities that mean what they say, and how far they are from it.

Four maps of a logit z, all monotone, so that no order changes:

    temperature  sigma(z / T)                                arXiv 1706.04599
    Platt        sigma(a z + b)                              Platt 1999
    isotonic     steps, by pooling adjacent violators        Zadrozny and Elkan 2002
    UMNN         sigma(b + integral_0^z f(t) dt), f > 0      arXiv 1908.05164, for calibration arXiv 2504.14243

The last is as free as isotonic regression and as smooth as Platt's; f is a small network.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

LARGEST_LOGIT, KNOTS = 12.0, 120
"""Bounds of the integral, and the grid's knots on either side of 0."""
SCALE = 3.0
HIDDEN = 16
SMOOTH_BINS = 10
SMOOTH_WEIGHT = 1.0
STEPS, LEARNING_RATE, WEIGHT_DECAY = 300, 0.01, 1e-3


class Calibrator(Protocol):
    """A map of logits (N,) to probabilities (N,), learnt from labels (N,) of 0 and 1."""

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Learn the map."""

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (N,)."""


class Platt:
    """sigma(a z + b); with `shift=False` b is 0, which is temperature scaling with T = 1 / a."""

    def __init__(self, *, shift: bool = True) -> None:
        self.shift = shift

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Maximum likelihood."""
        slope, offset = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=self.shift)
        fitted = [slope, offset] if self.shift else [slope]
        optimizer = torch.optim.LBFGS(fitted, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.binary_cross_entropy_with_logits(slope * logits + offset, labels)
            value.backward()
            return value

        optimizer.step(loss)
        self.slope_, self.offset_ = slope.item(), offset.item()
        return self

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (N,)."""
        return (self.slope_ * logits + self.offset_).sigmoid()


class Isotonic:
    """The monotone steps of least squared error; between the logits that it was fitted on it is linear."""

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Pool adjacent violators; equal logits count as one."""
        place, row, count = np.unique(logits.numpy(), return_inverse=True, return_counts=True)
        mean = np.bincount(row, labels.numpy()) / count
        self.logits_, self.values_ = place, isotonic_regression(mean, weights=count).x
        return self

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (N,)."""
        return torch.from_numpy(np.interp(logits.numpy(), self.logits_, self.values_)).float()


class MonotoneNetwork(nn.Module):
    """Unconstrained monotone network (UMNN): the integral of a positive network; untrained it changes nothing.

    The integral is summed by trapezoids between knots of a grid, and linear between two of them.
    """

    knots: Tensor

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.slope = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), last)
        self.offset = nn.Parameter(torch.zeros(()))
        grid = torch.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, 2 * KNOTS + 1)
        self.register_buffer("knots", grid, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits (N,)."""
        height = F.elu(self.slope(self.knots[:, None] / SCALE)[:, 0]) + 1
        width = LARGEST_LOGIT / KNOTS
        steps = F.pad((height[1:] + height[:-1]) * (width / 2), (1, 0)).cumsum(0)
        integral = steps - steps[KNOTS]  # from 0
        place = (logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) + LARGEST_LOGIT) / width
        below = place.detach().floor().long().clamp_max(2 * KNOTS - 1)
        between = place - below
        return integral[below] * (1 - between) + integral[below + 1] * between + self.offset

    def fit(self, logits: Tensor, labels: Tensor) -> Self:
        """Maximum likelihood and the smooth calibration loss, on everything at once."""
        bins = _equal_mass(logits, SMOOTH_BINS)
        optimizer = torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        self.requires_grad_(True)
        for _ in range(STEPS):
            calibrated = self(logits)
            loss = F.binary_cross_entropy_with_logits(calibrated, labels)
            loss = loss + SMOOTH_WEIGHT * smooth_calibration_loss(calibrated.sigmoid(), labels, bins)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        self.requires_grad_(False)
        return self

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities (N,)."""
        calibrated: Tensor = self(logits)
        return calibrated.sigmoid()


def smooth_calibration_loss(probabilities: Tensor, labels: Tensor, bins: Tensor) -> Tensor:
    """Mean squared difference of mean probability and mean label over bins (arXiv 2504.14243), differentiable.

    The paper smooths the means by running averages over small batches; here the batch is everything. Its bins are of
    calibrated probabilities, which are in the order of the scores: bins of scores are the same bins, and stay.

    Args:
        bins: (N,) number of each one's bin.
    """
    count = int(bins.max()) + 1
    gap = torch.zeros(count, dtype=probabilities.dtype).index_add(0, bins, probabilities - labels)
    size = torch.bincount(bins, minlength=count).clamp_min(1)
    return (gap.square() / size).sum() / len(bins)


class Bin(NamedTuple):
    """One bin of a reliability diagram: mean probability, share of labels that are 1, how many there are."""

    probability: float
    share: float
    size: int


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15, *, equal_mass: bool = False) -> list[Bin]:
    """Bins of [0, 1] of equal width, or with equally many in each; empty ones are left out."""
    number = _equal_mass(probabilities, bins) if equal_mass else (probabilities * bins).long().clamp(0, bins - 1)
    out = []
    for place in number.unique().tolist():
        inside = number == place
        out.append(Bin(float(probabilities[inside].mean()), float(labels[inside].mean()), int(inside.sum())))
    return out


def expected_calibration_error(bins: list[Bin]) -> float:
    """ECE: |mean probability - share of labels| of a bin, mean over what is in the bins."""
    return sum(b.size * abs(b.probability - b.share) for b in bins) / sum(b.size for b in bins)


def _equal_mass(values: Tensor, bins: int) -> Tensor:
    """(N,) number of the bin; equal values are in the same one."""
    edges = torch.quantile(values, torch.linspace(0, 1, bins + 1, dtype=values.dtype)[1:-1]).unique()
    return torch.bucketize(values.contiguous(), edges)


def calibrators() -> dict[str, Calibrator]:
    """One untrained calibrator of each kind by its name."""
    return {
        "temperature": Platt(shift=False),
        "Platt": Platt(),
        "isotonic": Isotonic(),
        "UMNN": MonotoneNetwork(),
    }
