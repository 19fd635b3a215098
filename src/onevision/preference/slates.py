"""Slates: what searches choose among, with all that does not change while the choice model is trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel, Shoppers
from onevision.generator.choice_training import own_clicks
from onevision.generator.reranker import Page
from onevision.semantic_ids.catalogue import Catalogue


class Slates(NamedTuple):
    """What Q searches choose among: `items` (Q, C), -1 for none, the features (Q, C, 8) of them that do not change, and
    the log-probabilities (Q, C) of their semantic IDs."""

    shoppers: Shoppers
    items: Tensor
    known: Tensor
    log_p: Tensor

    def take(self, rows: Tensor) -> Slates:
        """These rows."""
        shoppers = Shoppers(*(value[rows] for value in self.shoppers))
        return Slates(shoppers, self.items[rows], self.known[rows], self.log_p[rows])

    def scores(self, choice: ChoiceModel) -> Tensor:
        """log pi (Q, C)."""
        return choice.choose(self.shoppers, self.items, self.known, self.log_p)

    def page(self, choice: ChoiceModel) -> Page:
        """What a reranker reads of the first places of a choice without one."""
        scores = self.scores(choice)
        return choice.page(self.shoppers, self.items, self.known, self.log_p, scores)


def make_slates(
    choice: ChoiceModel,
    queries: QuerySet,
    catalogue: Catalogue,
    found: NDArray[np.int64],
    log_p: NDArray[np.float32],
    *,
    counted: bool,
) -> Slates:
    """Slates of searches from what their beams found (Q, C): items, -1 for none, and log-probabilities
    (`GeneratorRanker.find`).

    Args:
        counted: the searches are those whose clicks the choice model counts; these are taken out.
    """
    shoppers = choice.read(queries)
    rows, items = np.arange(len(queries)), torch.from_numpy(found)
    own = torch.from_numpy(own_clicks(queries, catalogue, rows, found)) * counted
    known = [
        choice.known(Shoppers(*(value[part] for value in shoppers)), items[part], own[part])
        for part in np.array_split(rows, len(rows) // 512 + 1)
    ]
    return Slates(shoppers, items, torch.cat(known), torch.from_numpy(log_p).masked_fill(items < 0, 0.0))
