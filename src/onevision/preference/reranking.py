"""Fit a reranker to what shoppers chose, and judge it on validation days without having seen them.

Photos of training searches are too easy, the encoder was trained on them; those of validation days are as new as what
will be served, and few. So a reranker starts on training searches and goes on with validation days, and reads both in
units of their own. Every validation search is judged by a reranker that went on with others (cross-fitting); the one
that is served saw all of them. The loss is the listwise cross-entropy of a search's gains,

    L = -sum_j g_j log pi'(j) + w max(0, E_pi[cosine] - E_pi'[cosine]),    g_j = level_j / ideal discounted gain

by which orders count double and every search as much as it does in NDCG; and a guard of likeness, of what the expected
cosine of the photo and an item drawn from the page lost in the batch.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.reranker import Page, Reranker
from onevision.preference.config import PreferenceConfig
from onevision.preference.levels import gains_of
from onevision.preference.slates import Slates
from onevision.semantic_ids.catalogue import Catalogue

FOLDS = 5
FEWEST_SEARCHES = 50
"""Of fewer validation searches with a click no reranker is made."""
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 3e-3, 1e-2


class Examples(NamedTuple):
    """Q searches to learn from: their pages (Q, K), g (Q, K), and the cosines (Q, K) of the photo and each item."""

    page: Page
    targets: Tensor
    cosine: Tensor

    def take(self, rows: Tensor) -> Examples:
        """These searches."""
        return Examples(self.page.take(rows), self.targets[rows], self.cosine[rows])


def examples_of(choice: ChoiceModel, queries: QuerySet, slates: Slates, catalogue: Catalogue) -> Examples:
    """What a reranker on top of `choice`, which has none, learns from searches."""
    page = slates.page(choice)
    items = slates.items.gather(1, page.columns).numpy()
    gains = torch.from_numpy(gains_of(queries, items, catalogue))
    vectors, photos = torch.from_numpy(catalogue.embedding), torch.from_numpy(queries.embedding)
    cosine = torch.stack([vectors[row] @ photo for row, photo in zip(items.clip(0), photos, strict=True)])
    return Examples(page, listwise_targets(gains), cosine)


def listwise_targets(gains: Tensor) -> Tensor:
    """g (Q, K) of gains (Q, K); 0 in searches without any."""
    best = gains.sort(1, descending=True).values
    ideal = (best / torch.arange(2, gains.shape[1] + 2).log2()).sum(1, keepdim=True)
    return gains / ideal.clamp_min(1e-9)


def fit_reranker(
    examples: Examples, epochs: int, likeness: float, seed: int, start: Reranker | None = None
) -> Reranker:
    """Learn from searches.

    Args:
        likeness: w, weight of the guard.
        start: goes on from it; what is read is in units of these searches nevertheless.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = copy.deepcopy(start) if start else Reranker(examples.page.read.shape[2])
        model.train().requires_grad_(True)
        model.standardise(examples.page)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(epochs):
            for rows in torch.randperm(len(examples.targets)).split(BATCH_SIZE):
                page, targets, cosine = examples.take(rows)
                log_p, parent = model(page), page.log_p.log_softmax(1)
                lost = ((parent.exp() - log_p.exp()) * cosine).sum(1).mean()
                loss = -(targets * log_p).sum(1).mean() + likeness * F.relu(lost)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
    return model.eval().requires_grad_(False)


class Fitted(NamedTuple):
    """The reranker that is served, and scores (Q, C) of validation searches by rerankers that did not see them."""

    reranker: Reranker
    scores: Tensor


def fit_on_both(
    choice: ChoiceModel,
    train: tuple[QuerySet, Slates],
    validation: tuple[QuerySet, Slates],
    catalogue: Catalogue,
    config: PreferenceConfig,
    seed: int,
) -> Fitted:
    """Fit on training searches first, then on validation searches, on top of a choice without a reranker."""
    easy, later = (examples_of(choice, *searches, catalogue) for searches in (train, validation))
    start = fit_reranker(easy, config.rerank_train_epochs, config.rerank_likeness, seed)
    settings = config.rerank_epochs, config.rerank_likeness, seed, start
    with torch.no_grad():
        before = validation[1].scores(choice)
    after = before.clone()
    fold = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(before)) % FOLDS)
    for held_out in range(FOLDS):
        others, judged = (torch.nonzero(where).squeeze(1) for where in (fold != held_out, fold == held_out))
        after[judged] = fit_reranker(later.take(others), *settings).rerank(before[judged], later.page.take(judged))
    return Fitted(fit_reranker(later, *settings), after)
