"""Fit the reward model on training searches, calibrate it on validation searches, and judge that on others of them.

Every validation search is judged with calibrators that were fitted without it; the one that is served saw all of them.
Only what was shown has a label, and only what the beams find is ever scored: pairs are both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.preference.calibration import (
    Bin,
    calibrators,
    expected_calibration_error,
    reliability,
)
from onevision.preference.rates import item_counts, outcomes_of
from onevision.preference.reward import RewardModel
from onevision.preference.slates import Slates
from onevision.report import Figure, ReportTable
from onevision.reporting.charts import reliability_chart
from onevision.semantic_ids.catalogue import Catalogue

FEWEST_PAIRS = 50
FOLDS = 5
CHANCE_DRAWS = 20
TOP = 10
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)
RAW, CALIBRATED = "none", "UMNN"


class Pairs(NamedTuple):
    """N pairs of a search and an item that it showed: features (N, F), labels (N, 2) clicked and ordered, row (N,) of
    the search, and whether the choice model would have it among the first ten (N,)."""

    features: Tensor
    labels: Tensor
    row: Tensor
    top: Tensor

    def take(self, there: Tensor) -> Pairs:
        """These pairs (N,) bool."""
        return Pairs(*(value[there] for value in self))


@dataclass
class FittedReward:
    """A calibrated reward model, and by calibrator how good probabilities are on searches it was not fitted on."""

    model: RewardModel
    counts: dict[str, int]
    quality: dict[str, dict[str, float]]
    bins: dict[str, list[Bin]]
    thresholds: list[list[float]]

    def metrics(self) -> dict[str, float]:
        """Flat, for the stage's report."""
        raw, calibrated = self.quality[RAW], self.quality[CALIBRATED]
        return {
            "click_ece_raw": raw["ECE"],
            "click_ece_calibrated": calibrated["ECE"],
            "click_log_loss_raw": raw["log loss"],
            "click_log_loss_calibrated": calibrated["log loss"],
        }

    def tables(self) -> list[ReportTable]:
        """For the stage's page."""
        names = list(self.quality[RAW])
        rows = [[name, *(round(values[n], 4) for n in names)] for name, values in self.quality.items()]
        return [
            ReportTable(
                "Calibration of P(click)",
                ["calibrator", *names],
                rows,
                "Validation searches, each with calibrators fitted on the others. ECE: 15 bins of equal width; by "
                "chance: what labels drawn from the probabilities themselves would have; top: what would be among "
                f"the first {TOP}. {CALIBRATED} is stored and served.",
            ),
            ReportTable(
                "No match: when the best hit's P(click) is too low",
                ["threshold", "searches with a match", "clicks among their hits", "items shown above it"],
                [[f"{t:g}", *(round(v, 4) for v in shares)] for t, *shares in self.thresholds],
                "Shares on the same searches; a hit counts that was shown.",
            ),
        ]

    def figures(self) -> list[Figure]:
        """For the stage's page."""
        curves = {name: [(b.probability, b.share) for b in bins] for name, bins in self.bins.items()}
        picture = reliability_chart(curves, title="Reliability of P(click)")
        return [Figure("Reliability", "svg", picture, "Ten bins with equally many pairs; the diagonal is the truth.")]


def shown_pairs(
    model: RewardModel,
    choice: ChoiceModel,
    searches: tuple[QuerySet, Slates],
    catalogue: Catalogue,
    *,
    counted: bool,
) -> Pairs:
    """What was shown of each search and found by its beams.

    Args:
        counted: the searches are those whose outcomes the model counts; these are taken out.
    """
    queries, slates = searches
    outcome = outcomes_of(queries, catalogue, slates.items)
    with torch.no_grad():
        scores = slates.scores(choice)
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    parts = []
    for rows in torch.arange(len(queries)).split(512):
        batch, own = slates.take(rows), outcome[rows]
        features = model.features(
            choice, batch.shoppers, batch.items.clamp_min(0), scores[rows], own if counted else None
        )
        shown = own[..., 0] > 0
        row = rows[:, None].expand_as(shown)
        labels = own[..., [1, 3]]
        parts.append(Pairs(features[shown], labels[shown], row[shown], (place[rows] < TOP)[shown]))
    return Pairs(*(torch.cat(values) for values in zip(*parts, strict=True)))


def fit_reward(
    choice: ChoiceModel,
    pairs: Path,
    catalogue: Catalogue,
    train: tuple[QuerySet, Slates],
    validation: tuple[QuerySet, Slates],
    seed: int,
) -> FittedReward | None:
    """Fit and calibrate; searches nobody clicked on belong to both query sets.

    Returns:
        None where the log tells of too few items that were shown and found, as of a shop that keeps no impressions.
    """
    torch.manual_seed(seed)
    model = RewardModel(item_counts(pairs, catalogue))
    learnt = shown_pairs(model, choice, train, catalogue, counted=True)
    later = shown_pairs(model, choice, validation, catalogue, counted=False)
    if min(len(later.row), len(learnt.row)) < FEWEST_PAIRS:
        return None
    model.fit(learnt.features, learnt.labels, seed)
    with torch.no_grad():
        logits, clicked = model(later.features)[:, 0], later.labels[:, 0]
    model.calibrator.fit(logits, clicked)
    part = torch.from_numpy(np.random.default_rng([seed, 5]).permutation(len(validation[0])) % FOLDS)[later.row]
    probabilities = {RAW: logits.sigmoid()} | {name: torch.zeros_like(logits) for name in calibrators()}
    for fold in range(FOLDS):
        inside = part == fold
        for name, calibrator in calibrators().items():
            calibrator.fit(logits[~inside], clicked[~inside])
            probabilities[name][inside] = calibrator.probability(logits[inside])
    return FittedReward(
        model.requires_grad_(False),
        {"pairs_learnt": len(learnt.row), "pairs_calibrating": len(later.row)},
        {name: _quality(p, clicked, later.top) for name, p in probabilities.items()},
        {name: reliability(p, clicked, 10, equal_mass=True) for name, p in probabilities.items()},
        _thresholds(probabilities[CALIBRATED], later),
    )


def chance_error(probability: Tensor, seed: int = 0) -> float:
    """ECE that labels drawn from these very probabilities (N,) would have, mean over draws: what chance alone makes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.bernoulli(probability, generator=generator) for _ in range(CHANCE_DRAWS))
    return float(np.mean([expected_calibration_error(reliability(probability, labels)) for labels in drawn]))


def _quality(probability: Tensor, clicked: Tensor, top: Tensor) -> dict[str, float]:
    return {
        "ECE": expected_calibration_error(reliability(probability, clicked)),
        "ECE by chance": chance_error(probability),
        "ECE, equal mass": expected_calibration_error(reliability(probability, clicked, equal_mass=True)),
        "ECE, top": expected_calibration_error(reliability(probability[top], clicked[top])),
        "mean": float(probability.mean()),
        "clicked": float(clicked.mean()),
        "log loss": float(F.binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), clicked)),
    }


def _thresholds(probability: Tensor, pairs: Pairs) -> list[list[float]]:
    searches = pairs.row.unique()
    best = torch.zeros(int(pairs.row.max()) + 1).scatter_reduce(0, pairs.row, probability, "amax")
    clicked = pairs.labels[:, 0]
    rows = []
    for threshold in THRESHOLDS:
        match = best >= threshold
        kept = float((clicked * match[pairs.row] * (probability >= threshold)).sum() / clicked.sum().clamp_min(1))
        above = float((probability >= threshold).float().mean())
        rows.append([threshold, float(match[searches].float().mean()), kept, above])
    return rows
