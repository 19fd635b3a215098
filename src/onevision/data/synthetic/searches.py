"""Searches by photo: who photographs what and when, what is shown, and what is clicked.

Clicks follow `P(click j) ~ exp(-distance(photographed, j) / TAU + taste(user, j))` among the nearest products in
attribute space, never in any encoder's space. What is shown comes from a noisy visual neighbour search that knows
nothing of tastes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from onevision.data.config import SnapshotConfig
from onevision.data.synthetic.catalogue import DAY, END, Catalogue
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.shoppers import Shoppers, seasonal_interest, taste_axes, visit_times

TAU = 0.25
"""Attribute distance that costs one unit of log-odds."""
CANDIDATES = 100
"""Nearest products that a shopper could choose among."""
SHOWN = 12
"""Most products shown by a search; the fewest is two less."""
LOGGING_NOISE = 1.0
CLICK_COUNTS = (0.08, 0.62, 0.22, 0.08)
"""Share of searches with no, one, two and three clicks."""
COLD_QUERY_SHARE = 0.28
"""Share of searches in the last days that photograph a cold product, once enough of them are there."""
VIDEO_SHARE = 0.1
_BLOCK_DISTANCES = 1 << 21
"""Distances worked out at once, which bounds memory whatever the size of the catalogue."""


@dataclass(frozen=True)
class Searches:
    """One row a search, by time.

    Attributes:
        item: (Q,) photographed product.
        shown: (Q, SHOWN) item rows by position, -1 where fewer are shown.
        clicked: (Q, 3) item rows in the order of clicks, -1 where there are fewer.
        by_choice: (Q, 50) the best items by true choice probability; -1 pads.
        by_looks: (Q, 50) the best by attribute distance alone.
    """

    user: Floats
    time: Floats
    item: Floats
    video: Floats
    shown: Floats
    clicked: Floats
    by_choice: Floats
    by_looks: Floats

    def __len__(self) -> int:
        return len(self.user)


def make_searches(
    config: SnapshotConfig, catalogue: Catalogue, shoppers: Shoppers, rng: np.random.Generator
) -> Searches:
    """Simulate every search of the log."""
    user, time = visit_times(config, shoppers, config.queries, rng)
    axes = taste_axes(catalogue)
    item = _photographed(config, catalogue, shoppers, axes, user, time, rng)
    blocks = [
        _search_block(catalogue, shoppers.taste[user[rows]], axes, item[rows], time[rows], rng)
        for rows in _blocks(len(user), max(1, _BLOCK_DISTANCES // len(catalogue)))
    ]
    shown, clicked, by_choice, by_looks = (np.concatenate(column) for column in zip(*blocks, strict=True))
    video = rng.random(len(user)) < VIDEO_SHARE
    return Searches(user, time, item, video, shown, clicked, by_choice, by_looks)


def _blocks(count: int, step: int) -> Iterator[slice]:
    starts = tqdm(range(0, count, step), desc="searches", unit="block", disable=None)
    return (slice(start, start + step) for start in starts)


def _photographed(
    config: SnapshotConfig,
    catalogue: Catalogue,
    shoppers: Shoppers,
    axes: Floats,
    user: Floats,
    time: Floats,
    rng: np.random.Generator,
) -> Floats:
    """(Q,) products: popular ones, in the user's categories, a little to the user's taste; sold at that time."""
    since = (time - (END - np.timedelta64(config.cold_days * DAY, "us"))) / np.timedelta64(DAY, "us")
    share = COLD_QUERY_SHARE * np.clip(since / (config.cold_days / 2), 0, 1)
    wants_cold = rng.random(len(user)) < share
    chosen = _draw_items(config, catalogue, shoppers, axes, user, time, ~catalogue.cold, rng)
    if catalogue.cold.any():
        fresh = _draw_items(config, catalogue, shoppers, axes, user, time, catalogue.cold, rng)
        chosen = np.where(wants_cold & (fresh >= 0), fresh, chosen)
    return np.where(chosen >= 0, chosen, int(np.argmin(catalogue.created)))


def _draw_items(
    config: SnapshotConfig,
    catalogue: Catalogue,
    shoppers: Shoppers,
    axes: Floats,
    user: Floats,
    time: Floats,
    pool: Floats,
    rng: np.random.Generator,
) -> Floats:
    """(Q,) the most interesting of two dozen popular items of `pool` that were sold at `time`; -1 if none was."""
    rows = np.flatnonzero(pool)
    weight = catalogue.popularity[rows]
    drawn = rows[rng.choice(len(rows), size=(len(user), 24), p=weight / weight.sum())]
    score = shoppers.interest[user[:, None], catalogue.category[drawn]]
    score = score + seasonal_interest(config, catalogue.category[drawn], time)
    score = score + 0.3 * np.einsum("qa,qka->qk", shoppers.taste[user], axes[drawn]) + rng.gumbel(size=drawn.shape)
    score[catalogue.created[drawn] >= time[:, None]] = -np.inf
    best = score.argmax(axis=1)
    everyone = np.arange(len(user))
    return np.where(np.isfinite(score[everyone, best]), drawn[everyone, best], -1)


def _search_block(
    catalogue: Catalogue, taste: Floats, axes: Floats, item: Floats, time: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats, Floats]:
    """Shown, clicked, and the two oracle rankings of a block of searches."""
    everyone = np.arange(len(item))[:, None]
    near, distance = nearest(catalogue, item, time)
    sold = np.isfinite(distance)
    logits = -distance / TAU
    choice = np.where(sold, logits + np.einsum("qa,qka->qk", taste, axes[near]), -np.inf)
    wish = choice + rng.gumbel(size=choice.shape)
    looks = logits + LOGGING_NOISE * rng.gumbel(size=logits.shape)
    count = rng.choice(len(CLICK_COUNTS), p=CLICK_COUNTS, size=len(item))
    first = wish.argmax(axis=1)
    clicking = np.flatnonzero(count > 0)
    length = np.minimum(rng.integers(SHOWN - 2, SHOWN + 1, size=len(item)), sold.sum(axis=1))
    width = min(SHOWN, near.shape[1])
    # The item clicked is always shown: where the search missed it, it takes the last place.
    rank = np.argsort(np.argsort(-looks, axis=1, kind="stable"), axis=1, kind="stable").astype(np.float64)
    rank[clicking, first[clicking]] = np.minimum(rank[clicking, first[clicking]], length[clicking] - 1.5)
    order = np.argsort(rank, axis=1, kind="stable")[:, :width]
    on_page = np.arange(width) < length[:, None]
    shown = np.full((len(item), SHOWN), -1)
    shown[:, :width] = np.where(on_page, near[everyone, order], -1)
    wish_shown = np.where(on_page, wish[everyone, order], -np.inf)
    best = np.argsort(-wish_shown, axis=1, kind="stable")[:, : len(CLICK_COUNTS) - 1]
    real = (np.arange(best.shape[1]) < count[:, None]) & np.isfinite(wish_shown[everyone, best])
    clicked = np.where(real, shown[everyone, best], -1)
    return shown, clicked, _top(near, choice), _top(near, -distance)


def nearest(catalogue: Catalogue, item: Floats, time: Floats) -> tuple[Floats, Floats]:
    """The CANDIDATES nearest items (B, K) sold at `time`, and their attribute distances; inf where there are fewer."""
    points = catalogue.attributes.astype(np.float64)
    norms = (points * points).sum(axis=1)
    squared = norms[item][:, None] + norms - 2.0 * points[item] @ points.T
    distance = np.sqrt(np.maximum(squared, 0.0))
    distance[np.arange(len(item)), item] = 0.0
    distance[catalogue.created >= time[:, None]] = np.inf
    k = min(CANDIDATES, len(catalogue))
    near = np.sort(np.argpartition(distance, k - 1, axis=1)[:, :k], axis=1)
    return near, np.take_along_axis(distance, near, axis=1)


def _top(near: Floats, score: Floats) -> Floats:
    """(B, 50) items by falling score, -1 where the score is not finite."""
    order = np.argsort(-score, axis=1, kind="stable")[:, :50]
    top = np.full((len(near), 50), -1)
    best = np.take_along_axis(score, order, axis=1)
    top[:, : order.shape[1]] = np.where(np.isfinite(best), np.take_along_axis(near, order, axis=1), -1)
    return top
