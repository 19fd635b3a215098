"""The steps that give a trained generator its choice model: tastes, guidance of the beams, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.candidates import Candidates
from onevision.generator.choice import FEATURES, INTENTS, ChoiceModel
from onevision.generator.choice_items import ItemTable
from onevision.generator.choice_training import calibrate_choice, clicks_among, train_choice
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.token_pruning import PruningSetting
from onevision.generator.warm_choice import ParentChoice
from onevision.report import ReportTable

BEAMS = 100
OPENED = PruningSetting(open_below=400)
"""A search that pruning may choose later: the choice is fitted among what either finds, so that none has an advantage
on the very days that it is chosen by."""


@dataclass
class FittedChoice:
    """A choice model and how it came about: NDCG by epoch, by guidance the share of clicks that beams found, and the
    number of the first epoch (0: the parent's tastes)."""

    model: ChoiceModel
    ndcg: list[float]
    found: dict[float, float]
    first: int

    def tables(self) -> list[ReportTable]:
        """For the stage's page."""
        weights, shares = self.model.weights.tolist(), self.model.intent.softmax(0).tolist()
        rows = [[name, *(round(intent[n], 2) for intent in weights)] for n, name in enumerate(FEATURES)]
        best = int(np.argmax(self.ndcg))
        return [
            ReportTable(
                "What shoppers choose by",
                ["feature", *(f"{name} ({100 * share:.0f} %)" for name, share in zip(INTENTS, shares, strict=True))],
                rows,
                f"Weights of the two intents. Tastes are of epoch {self.first + best} of {self.first} to "
                f"{self.first + len(self.ndcg) - 1}, "
                f"NDCG {self.ndcg[best]:.4f} on validation days.",
            ),
            ReportTable(
                "Taste in the choice of beams",
                ["guidance", "clicks found"],
                [[guidance, round(share, 4)] for guidance, share in self.found.items()],
                f"Kept: {self.model.guidance:g}. Share of validation clicks among the items of {BEAMS} beams.",
            ),
        ]


def fit_choice(
    ranker: GeneratorRanker,
    items: ItemTable,
    traits: NDArray[np.float32],
    train: QuerySet,
    validation: QuerySet,
    config: GeneratorTrainingConfig,
    seed: int,
    parent: ParentChoice | None = None,
) -> FittedChoice:
    """Train a choice model for the ranker's generator, and let the ranker use it.

    Args:
        parent: goes on from it, for `warm_choice_epochs`, and keeps its guidance.
    """
    catalogue = ranker.catalogue
    rank = parent.rank() if parent else config.taste_rank
    epochs = config.warm_choice_epochs if parent else config.choice_epochs
    model = ChoiceModel(items, ranker.model.config.segments, rank, config.long_history_length)
    model.attach(catalogue)
    if parent:
        parent.into(model)
    shoppers, later = model.read(train), model.read(validation)
    among = Candidates.of_the_shop(catalogue, train, config.choice_candidates, seed)
    clicks = clicks_among(model, shoppers, train, catalogue, among, config, counted=True)
    among = Candidates.of_the_shop(catalogue, validation, config.choice_candidates, seed)
    measured = clicks_among(model, later, validation, catalogue, among, config, counted=False)
    start = parent.taste_of if parent else None
    ndcg = train_choice(
        model, traits, clicks, shoppers, measured, later, config.choice_learning_rate, epochs, seed, start
    )
    number = catalogue.numbers()
    first = np.array([number.get(clicked[0], -2) for clicked in validation.clicked])
    shares: dict[float, float] = {}
    found = {}
    for guidance in [parent.guidance] if parent else sorted(config.guidance):
        model.guidance = guidance
        ranker.use_choice(model)
        found[guidance] = ranker.find(validation, BEAMS)
        shares[guidance] = float((found[guidance][0] == first[:, None]).any(axis=1).mean())
    model.guidance = max(shares, key=lambda guidance: (shares[guidance], -guidance))
    ranker.use_choice(model)
    ranker.use_pruning(OPENED)
    opened = ranker.find(validation, BEAMS)
    ranker.use_pruning(PruningSetting())
    slates = [
        clicks_among(model, later, validation, catalogue, Candidates.found(*what), config, counted=False)
        for what in (found[model.guidance], opened)
    ]
    calibrate_choice(model, slates, later)
    model.requires_grad_(False)
    ranker.use_choice(model)
    return FittedChoice(model, ndcg, shares, 0 if parent else 1)
