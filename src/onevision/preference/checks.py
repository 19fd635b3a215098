"""What validation days say of a checkpoint, of searches with a click.

Checkpoints are compared on slates, what the parent's beams found: that costs no decoding. Beams follow tastes too, so
the one that is to be kept is asked once more as it would be served, from beams to items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.metrics.ranking import hit_rate, ndcg
from onevision.preference.config import PreferenceConfig
from onevision.preference.levels import CLICKED, ORDERED
from onevision.preference.reward import RewardModel
from onevision.preference.slates import Slates

PLACES = 10


@dataclass(frozen=True)
class Validation:
    """Of the first ten: HR, NDCG (orders double), mean cosine of photo and item and HR of personal clicks, which decide
    in the gate; and, only shown, mean reward by the reward model and different items over all searches."""

    hit_rate: float
    ndcg: float
    similarity: float
    personal_hit_rate: float
    reward: float = 0.0
    distinct: int = 0

    def wins(self, parent: Validation, config: PreferenceConfig) -> bool:
        """The gate: NDCG higher than the parent's, the other three not lower by more than the tolerances."""
        return (
            self.ndcg > parent.ndcg
            and self.hit_rate >= parent.hit_rate - config.tolerance
            and self.personal_hit_rate >= parent.personal_hit_rate - config.tolerance
            and self.similarity >= parent.similarity - config.similarity_tolerance
        )


class ValidationDays:
    """Ranks the searches whose first click is on an item of the catalogue.

    Args:
        slates: what the parent's beams found for the queries.
        reward: judges what is found; it does not decide.
    """

    def __init__(
        self,
        ranker: GeneratorRanker,
        queries: QuerySet,
        slates: Slates,
        reward: RewardModel | None,
        config: PreferenceConfig,
    ) -> None:
        number = ranker.catalogue.numbers()
        rows = [n for n, clicked in enumerate(queries.clicked) if clicked and clicked[0] in number]
        self.rows = torch.tensor(rows, dtype=torch.long)
        self.queries, self.slates = queries.take(rows), slates.take(self.rows)
        self.ranker, self.reward, self.config = ranker, reward, config
        self.first = [[number[clicked[0]]] for clicked in self.queries.clicked]
        self.levels = [
            {number[i]: ORDERED if i in ordered else CLICKED for i in (*clicked, *ordered) if i in number}
            for clicked, ordered in zip(self.queries.clicked, self.queries.ordered, strict=True)
        ]

    @torch.no_grad()
    def check(self, choice: ChoiceModel) -> Validation:
        """Measure a choice model on the slates."""
        return self._ranked(choice, self.slates.scores(choice.eval()))

    def judge(self, choice: ChoiceModel, scores: Tensor) -> Validation:
        """Measure scores (Q, C) of what was found for all the queries; only the reward is the choice model's."""
        return self._ranked(choice, scores[self.rows])

    def _ranked(self, choice: ChoiceModel, scores: Tensor) -> Validation:
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        items = self.slates.items.gather(1, order)
        return self._measure(choice, items[:, :PLACES].numpy(), scores[:, :PLACES].numpy())

    def ask(self, choice: ChoiceModel) -> Validation:
        """Measure a choice model as it would be served."""
        self.ranker.use_choice(choice.eval())
        ranking = self.ranker.rank(self.queries, self.config.beam_width, PLACES)
        return self._measure(choice, ranking.items, ranking.scores)

    def _measure(self, choice: ChoiceModel, items: NDArray[np.int64], scores: NDArray[np.float32]) -> Validation:
        there = items >= 0
        cosine = np.einsum("qkd,qd->qk", self.ranker.catalogue.embedding[items], self.queries.embedding)
        places = min(PLACES, items.shape[1])  # a small shop's slates are shorter
        hits = hit_rate(items, self.first, places)
        gains = [list(levels.values()) for levels in self.levels]
        return Validation(
            float(hits.mean()),
            float(ndcg(items, [list(levels) for levels in self.levels], places, gains).mean()),
            float(cosine[there].mean()),
            float(hits[self.queries.personal].mean()) if self.queries.personal.any() else 0.0,
            self._reward(choice, torch.from_numpy(items), torch.from_numpy(scores)),
            len(np.unique(items[there])),
        )

    def _reward(self, choice: ChoiceModel, items: Tensor, scores: Tensor) -> float:
        """Mean over what was found; 0 without a reward model."""
        if self.reward is None:
            return 0.0
        there = items >= 0
        shoppers = choice.read(self.queries)
        features = self.reward.features(choice, shoppers, items.clamp_min(0), scores.masked_fill(~there, 0.0))
        return float(self.reward.reward(features, CLICKED, ORDERED, self.config.relevance_weight)[there].mean())
