"""Prompts: a batch of queries as tensors, with item ids mapped to semantic IDs through the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.features.queries import QuerySet
from onevision.generator.configuration import GeneratorConfig
from onevision.semantic_ids.catalogue import Catalogue

LONG_TOKENS = 4
"""Tokens that the long history is read through."""


class Task(IntEnum):
    """What the generator is asked to write."""

    OWN_ID = 0
    """The semantic ID of the product in the picture."""
    CLICKED = 1
    """The semantic ID of the product that this shopper would choose."""


@dataclass
class Prompt:
    """A batch of B prompts.

    What is not shown of the product is 0: it is then the same in all prompts, and attention needs no mask for it.

    Attributes:
        tokens: (B, T, C) patch tokens, float16; embedding: (B, d); category: (B, K) predicted mixture.
        history: (B, 3, H, L) semantic IDs of recently clicked, searched and ordered items, newest first, -1 for none.
        long_history: (B, M, L), -1 for none.
        segment: (B,) row of the profile table, 0 for unknown.
        task: (B,) `Task`.
    """

    tokens: Tensor
    embedding: Tensor
    category: Tensor
    history: Tensor
    long_history: Tensor
    segment: Tensor
    task: Tensor

    def __len__(self) -> int:
        return len(self.embedding)

    def take(self, rows: Tensor) -> Prompt:
        """The prompts of these rows."""
        return Prompt(*(value[rows] for value in self._values()))

    def to(self, device: torch.device) -> Prompt:
        """The same prompts on a device."""
        return Prompt(*(value.to(device) for value in self._values()))

    def lengths(self) -> Tensor:
        """Tokens (B,) of history and long history: what prompts differ in."""
        recent = (self.history[..., 0] >= 0).sum((1, 2))
        return recent + LONG_TOKENS * (self.long_history[:, 0, 0] >= 0)

    def shows_product(self) -> Tensor:
        """Which prompts (B,) show a product, by its picture or by its codes; the others hold a category alone."""
        return self.embedding.any(1)

    def without_user(self, rows: Tensor | None = None) -> Prompt:
        """Hide history and profile, of `rows` (B,) bool or of all."""
        hidden = torch.ones(len(self), dtype=torch.bool) if rows is None else rows
        return replace(
            self,
            history=self.history.masked_fill(hidden[:, None, None, None], -1),
            long_history=self.long_history.masked_fill(hidden[:, None, None], -1),
            segment=self.segment.masked_fill(hidden, 0),
        )

    def _values(self) -> tuple[Tensor, ...]:
        return (
            self.tokens,
            self.embedding,
            self.category,
            self.history,
            self.long_history,
            self.segment,
            self.task,
        )


def concatenate(prompts: Sequence[Prompt]) -> Prompt:
    """Stack batches of prompts."""
    return Prompt(*(torch.cat(values) for values in zip(*(p._values() for p in prompts), strict=True)))


def without_shopper(queries: QuerySet) -> QuerySet:
    """The same queries of people of whom nothing is known."""
    none: list[list[str]] = [[] for _ in range(len(queries))]
    return replace(
        queries,
        recent_clicked=none,
        recent_searched=none,
        recent_ordered=none,
        long_history=none,
        segment=[None] * len(queries),
    )


class PromptBuilder:
    """Turns queries into prompts for one generator and one catalogue."""

    def __init__(self, config: GeneratorConfig, catalogue: Catalogue) -> None:
        self.config = config
        self.number = catalogue.numbers()
        self.segment = {name: n for n, name in enumerate(config.segments, 1)}
        # The last row stands for "no item".
        none = np.full((1, catalogue.codes.shape[1]), -1, np.int16)
        self.codes = np.concatenate([catalogue.codes, none])

    def build(self, queries: QuerySet, task: Task = Task.CLICKED, history: int | None = None) -> Prompt:
        """Prompts of all queries; items without a semantic ID are left out of the history.

        Args:
            history: at most so many of each recent history; by default as many as the model reads.
        """
        length, long_length = self.config.history_length, self.config.long_history_length
        length = length if history is None else min(length, history)
        recent = [queries.recent_clicked, queries.recent_searched, queries.recent_ordered]
        return Prompt(
            tokens=torch.from_numpy(queries.tokens),
            embedding=torch.from_numpy(queries.embedding),
            category=torch.from_numpy(queries.category.astype(np.float32)),
            history=torch.stack([self._sids(lists, length) for lists in recent], 1),
            long_history=self._sids(queries.long_history, long_length),
            segment=torch.tensor([self.segment.get(s or "", 0) for s in queries.segment], dtype=torch.long),
            task=torch.full((len(queries),), int(task)),
        )

    def pictures(
        self, embedding: NDArray[np.float32], category: NDArray[np.float16], tokens: NDArray[np.float16]
    ) -> Prompt:
        """Prompts of pictures alone, asked for the product in them."""
        count, levels = len(embedding), self.codes.shape[1]
        return Prompt(
            tokens=torch.from_numpy(tokens),
            embedding=torch.from_numpy(embedding),
            category=torch.from_numpy(category.astype(np.float32)),
            history=torch.full((count, 3, self.config.history_length, levels), -1),
            long_history=torch.full((count, self.config.long_history_length, levels), -1),
            segment=torch.zeros(count, dtype=torch.long),
            task=torch.full((count,), int(Task.OWN_ID)),
        )

    def _sids(self, lists: list[list[str]], length: int) -> Tensor:
        index = np.full((len(lists), length), len(self.codes) - 1)
        for row, items in enumerate(lists):
            known = [self.number[item] for item in items if item in self.number][:length]
            index[row, : len(known)] = known
        return torch.from_numpy(self.codes[index].astype(np.int64))
