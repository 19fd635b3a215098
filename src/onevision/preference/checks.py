"""What validation days say of a checkpoint: the served ranking, from beams to items, of searches with a click."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.metrics.ranking import hit_rate, ndcg
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import CLICKED, ORDERED
from onevision.preference.reward import RewardModel

PLACES = 10


@dataclass(frozen=True)
class Validation:
    """Of the first ten: HR, NDCG (orders double) and mean cosine of photo and item, which decide in the gate; and, only
    shown, HR of personal clicks, mean reward by the reward model and different items over all searches."""

    hit_rate: float
    ndcg: float
    similarity: float
    personal_hit_rate: float = 0.0
    reward: float = 0.0
    distinct: int = 0

    def wins(self, parent: Validation, config: PreferenceConfig) -> bool:
        """The gate: NDCG higher than the parent's, the other two not lower by more than the tolerances."""
        return (
            self.ndcg > parent.ndcg
            and self.hit_rate >= parent.hit_rate - config.tolerance
            and self.similarity >= parent.similarity - config.similarity_tolerance
        )


class ValidationDays:
    """Ranks the searches whose first click is on an item of the catalogue.

    Args:
        reward: judges what is found; it does not decide.
    """

    def __init__(
        self, ranker: GeneratorRanker, queries: QuerySet, reward: RewardModel | None, config: PreferenceConfig
    ) -> None:
        number = ranker.catalogue.numbers()
        self.queries = queries.take(
            [n for n, clicked in enumerate(queries.clicked) if clicked and clicked[0] in number]
        )
        self.ranker, self.reward, self.config = ranker, reward, config
        self.first = [[number[clicked[0]]] for clicked in self.queries.clicked]
        self.levels = [
            {number[i]: ORDERED if i in ordered else CLICKED for i in (*clicked, *ordered) if i in number}
            for clicked, ordered in zip(self.queries.clicked, self.queries.ordered, strict=True)
        ]

    def check(self, choice: ChoiceModel) -> Validation:
        """Measure a choice model."""
        choice.eval()
        self.ranker.use_choice(choice)
        ranking = self.ranker.rank(self.queries, self.config.beam_width, PLACES)
        there = ranking.items >= 0
        cosine = np.einsum("qkd,qd->qk", self.ranker.catalogue.embedding[ranking.items], self.queries.embedding)
        hits = hit_rate(ranking.items, self.first, PLACES)
        gains = [list(levels.values()) for levels in self.levels]
        return Validation(
            float(hits.mean()),
            float(ndcg(ranking.items, [list(levels) for levels in self.levels], PLACES, gains).mean()),
            float(cosine[there].mean()),
            float(hits[self.queries.personal].mean()) if self.queries.personal.any() else 0.0,
            self._reward(choice, torch.from_numpy(ranking.items), torch.from_numpy(ranking.scores)),
            len(np.unique(ranking.items[there])),
        )

    def _reward(self, choice: ChoiceModel, items: Tensor, scores: Tensor) -> float:
        """Mean over what was found; 0 without a reward model."""
        if self.reward is None:
            return 0.0
        there = items >= 0
        shoppers = choice.read(self.queries)
        features = self.reward.features(choice, shoppers, items.clamp_min(0), scores.masked_fill(~there, 0.0))
        return float(self.reward.reward(features, CLICKED, ORDERED, self.config.relevance_weight)[there].mean())
