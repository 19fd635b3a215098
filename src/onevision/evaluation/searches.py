"""Searches as the baselines see them: a picture's embedding, what the user had done before, and what followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onevision.evaluation.items import Items

if TYPE_CHECKING:
    from onevision.features.queries import QuerySet

HISTORIES = ("recent_clicked", "recent_searched", "recent_ordered", "long_history")
"""A user's sequences, newest first; every system is given the same ones."""

Rows = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Searches:
    """Q searches; items are catalogue rows.

    Attributes:
        embedding: (Q, d) float32 of the photos.
        ts: (Q,) int64, microseconds since 1970.
        histories: name of `HISTORIES` -> item rows a search, newest first, strictly before it.
        segment: (Q,) profile, "" where there is none.
        clicked, ordered, shown: item rows a search, by time (shown by position).
    """

    embedding: NDArray[np.float32]
    ts: NDArray[np.int64]
    histories: dict[str, Rows]
    segment: NDArray[np.str_]
    clicked: Rows
    ordered: Rows
    shown: Rows

    @classmethod
    def of(cls, queries: QuerySet, items: Items) -> Searches:
        """Searches of a query set; items that are not among `items` are left out of the lists."""
        return cls(
            embedding=np.asarray(queries.embedding, dtype=np.float32),
            ts=queries.ts,
            histories={name: items.row_lists(getattr(queries, name)) for name in HISTORIES},
            segment=np.array([s or "" for s in queries.segment], dtype=np.str_),
            clicked=items.row_lists(queries.clicked),
            ordered=items.row_lists(queries.ordered),
            shown=items.row_lists(queries.shown),
        )

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: NDArray[np.int64] | slice) -> Searches:
        """The searches of those rows."""
        index = np.arange(len(self))[rows]
        picked = {f.name: pick(getattr(self, f.name), index) for f in fields(self) if f.name != "histories"}
        return Searches(histories={name: pick(h, index) for name, h in self.histories.items()}, **picked)


def microseconds(time: str) -> int:
    """An ISO time as microseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1_000_000)


def pick(values: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of an array or of a list."""
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]


def deal_histories(users: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Whose history each search gets when histories are shuffled between users.

    Users are put in a random order, their searches side by side, and everything is moved on by the number of
    searches of the busiest user, so that nobody keeps their own unless one user made more than half of them.

    Returns:
        (Q,) row of the search whose user fields are used; a permutation.
    """
    names, owner, counts = np.unique(np.asarray(users), return_inverse=True, return_counts=True)
    place = np.random.default_rng(seed).permutation(len(names))
    order = np.argsort(place[owner], kind="stable")
    dealt = np.empty(len(owner), dtype=np.int64)
    dealt[order] = np.roll(order, -int(counts.max()))
    return dealt
