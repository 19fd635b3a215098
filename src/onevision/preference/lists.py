"""Preference lists: for every query a winner and losers, with reward levels (OneSearch).

ordered 2.0 > clicked 1.0 > shown and not clicked 0.5 > same category, not shown 0.2 > anything else 0.

Losers are what was shown and not clicked, and the model's own probable items that nobody asked for. Guards: an own
item that does not look like the photo, or is of another category than the winner, counts as "anything else" (without
guards, as of the same category). It is a loser in either case, of every objective that learns from pairs; its level is
read by listwise DPO, whose weight of a loser is the smaller the farther it is behind, and by `min_reward_gap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onevision.features.queries import QuerySet
from onevision.preference.config import PreferenceConfig
from onevision.semantic_ids.catalogue import Catalogue

ORDERED, CLICKED, SHOWN, SAME_CATEGORY, OTHER = 2.0, 1.0, 0.5, 0.2, 0.0


@dataclass
class PreferenceLists:
    """N lists.

    Attributes:
        row: (N,) query; winner: (N,) item; winner_reward: (N,).
        losers: (N, M) items, -1 for none; loser_reward: (N, M).
        counts: lists and losers by kind, and queries left out.
    """

    row: NDArray[np.int64]
    winner: NDArray[np.int64]
    winner_reward: NDArray[np.float32]
    losers: NDArray[np.int64]
    loser_reward: NDArray[np.float32]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.row)


def build_lists(
    queries: QuerySet, own_items: NDArray[np.int64], catalogue: Catalogue, config: PreferenceConfig
) -> PreferenceLists:
    """Build lists; `own_items` (Q, k) are the parent's ranked items, -1 for none.

    Losers that share the winner's semantic ID are left out: the generator could not tell them apart.
    """
    number = catalogue.numbers()
    category = np.array(catalogue.table["category_id"].to_pylist(), dtype=object)
    kinds = ("shown", "own", "duplicate", "visual_guard", "category_guard")
    counts = {f"losers_{kind}": 0 for kind in kinds}
    kept: list[tuple[int, int, float, list[tuple[int, float]]]] = []
    for n in range(len(queries)):
        ordered = [number[i] for i in queries.ordered[n] if i in number]
        clicked = [number[i] for i in queries.clicked[n] if i in number]
        if not clicked and not ordered:
            continue
        winner, reward = (ordered[0], ORDERED) if ordered else (clicked[0], CLICKED)
        wanted = {*ordered, *clicked}
        shown = [number[i] for i in queries.shown[n] if i in number]
        losers = {i: SHOWN for i in shown if i not in wanted}
        counts["losers_shown"] += len(losers)
        cosine = catalogue.embedding[own_items[n]] @ queries.embedding[n]
        for item, similarity in zip(own_items[n].tolist(), cosine, strict=True):
            if item < 0 or item in wanted:
                continue
            if item in losers:
                counts["losers_duplicate"] += 1
                continue
            unlike = similarity < config.visual_guard_cosine
            elsewhere = config.category_guard and category[item] != category[winner]
            losers[item] = OTHER if unlike or elsewhere else SAME_CATEGORY
            counts["losers_visual_guard"] += int(unlike)
            counts["losers_category_guard"] += int(elsewhere)
            counts["losers_own"] += 1
        usable = [
            (item, r)
            for item, r in losers.items()
            if reward - r >= config.min_reward_gap and catalogue.bucket[item] != catalogue.bucket[winner]
        ]
        if usable:
            kept.append((n, winner, reward, usable))
    counts["lists"] = len(kept)
    counts["queries_without_list"] = len(queries) - len(kept)
    return _as_arrays(kept, config.losers, counts)


def gains_of(queries: QuerySet, items: NDArray[np.int64], catalogue: Catalogue) -> NDArray[np.float32]:
    """(Q, C) reward levels of what was ordered or clicked in each search, among its items (Q, C); 0 for the others."""
    number = catalogue.numbers()
    gains = np.zeros(items.shape, np.float32)
    for row, (clicked, ordered) in enumerate(zip(queries.clicked, queries.ordered, strict=True)):
        for wanted, level in ((clicked, CLICKED), (ordered, ORDERED)):
            gains[row, np.isin(items[row], [number[item] for item in wanted if item in number])] = level
    return gains


def _as_arrays(
    kept: list[tuple[int, int, float, list[tuple[int, float]]]], size: int, counts: dict[str, int]
) -> PreferenceLists:
    losers = np.full((len(kept), size), -1, np.int64)
    rewards = np.zeros((len(kept), size), np.float32)
    for n, (_, _, _, usable) in enumerate(kept):
        # Half of the places for what was shown, the rest for the model's own most probable mistakes.
        shown = [u for u in usable if u[1] == SHOWN]
        own = [u for u in usable if u[1] != SHOWN]
        first = shown[: max(size // 2, size - len(own))]
        chosen = first + own[: size - len(first)]
        losers[n, : len(chosen)] = [item for item, _ in chosen]
        rewards[n, : len(chosen)] = [reward for _, reward in chosen]
    return PreferenceLists(
        np.array([k[0] for k in kept], np.int64),
        np.array([k[1] for k in kept], np.int64),
        np.array([k[2] for k in kept], np.float32),
        losers,
        rewards,
        counts,
    )
