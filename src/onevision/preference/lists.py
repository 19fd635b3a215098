"""Preference lists: for every query a winner, losers with their reward levels, and guarded items.

The winner is the first item of the highest level that the search led to. Losers are at lower levels: what it led to as
well, what was shown and not clicked, and the model's own probable items that nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onevision.features.queries import QuerySet
from onevision.preference.config import PreferenceConfig
from onevision.preference.guards import guarded_items
from onevision.preference.levels import CLICKED, ORDERED_ELSEWHERE, OTHER, SAME_CATEGORY, SHOWN, levels_of
from onevision.semantic_ids.catalogue import Catalogue


@dataclass
class PreferenceLists:
    """N lists.

    Attributes:
        row: (N,) query; winner: (N,) item; winner_reward: (N,).
        losers: (N, M) items, -1 for none; loser_reward: (N, M).
        guarded: (N, G) items, -1 for none.
        counts: lists, losers by kind, guards by kind, and queries left out.
    """

    row: NDArray[np.int64]
    winner: NDArray[np.int64]
    winner_reward: NDArray[np.float32]
    losers: NDArray[np.int64]
    loser_reward: NDArray[np.float32]
    guarded: NDArray[np.int64]
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
    counts = {f"losers_{kind}": 0 for kind in ("wanted", "shown", "own", "duplicate")}
    kept: list[tuple[int, int, float, list[tuple[int, float]]]] = []
    for n in range(len(queries)):
        levels = levels_of(queries, n, number)
        winner, reward = next(iter(levels.items()), (-1, OTHER))
        if reward < CLICKED:
            continue
        elsewhere = {number[item] for item in queries.recent_ordered[n] if item in number}
        losers = {item: level for item, level in levels.items() if level < reward}
        counts["losers_shown"] += sum(level == SHOWN for level in losers.values())
        counts["losers_wanted"] += sum(level > SHOWN for level in losers.values())
        for item in own_items[n].tolist():
            if item < 0 or levels.get(item, OTHER) >= CLICKED:
                continue
            if item in losers:
                counts["losers_duplicate"] += 1
                continue
            same = ORDERED_ELSEWHERE if item in elsewhere else SAME_CATEGORY
            losers[item] = same if category[item] == category[winner] else OTHER
            counts["losers_own"] += 1
        usable = [
            (item, r)
            for item, r in losers.items()
            if reward - r >= config.min_reward_gap and catalogue.bucket[item] != catalogue.bucket[winner]
        ]
        # Half of the places for what the search showed, the rest for the model's own most probable mistakes.
        seen, own = [u for u in usable if u[0] in levels], [u for u in usable if u[0] not in levels]
        first = seen[: max(config.losers // 2, config.losers - len(own))]
        if usable:
            kept.append((n, winner, reward, first + own[: config.losers - len(first)]))
    row = np.array([k[0] for k in kept], np.int64)
    winners = np.array([k[1] for k in kept], np.int64)
    guarded, guards = guarded_items(queries.take(row), winners, own_items[row], catalogue, config)
    counts |= guards | {"lists": len(kept), "queries_without_list": len(queries) - len(kept)}
    rewards = np.array([k[2] for k in kept], np.float32)
    return PreferenceLists(row, winners, rewards, *_as_arrays([k[3] for k in kept], config.losers), guarded, counts)


def _as_arrays(losers: list[list[tuple[int, float]]], size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Items and levels (N, size) of each list's losers, -1 and 0 for none."""
    items, levels = np.full((len(losers), size), -1, np.int64), np.zeros((len(losers), size), np.float32)
    for n, chosen in enumerate(losers):
        items[n, : len(chosen)] = [item for item, _ in chosen]
        levels[n, : len(chosen)] = [level for _, level in chosen]
    return items, levels
