"""How much an item is clicked, as it could be known at a moment: what gives the cascade no look into the future.

A rate is shrunk towards that of the item's category, which is what a new item gets: a rank-by-count feature would
bury every cold item, whatever it looks like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.evaluation.click_log import MICROSECONDS_A_DAY
from onevision.evaluation.items import Items

PSEUDO_CLICKS = 2.0
"""Clicks `a` that the prior is worth in `(clicks + a) / (item-days + a / prior)`, a gamma-Poisson posterior mean."""
_FIRST_GUESS = 0.01
"""Clicks per item-day before there is any click at all."""
_SECOND = 1_000_000


class ClickRates:
    """Clicks per item-day of groups of items, as of any time up to `end`.

    Args:
        group: (I,) group number of each item.
        clicked, ts: (E,) item row and time (microseconds) of every click.
        created: (I,) when each item entered (microseconds).
        start, end: the log's bounds; clicks at or after `end` are not looked at.
    """

    def __init__(
        self,
        group: NDArray[np.int64],
        clicked: NDArray[np.int64],
        ts: NDArray[np.int64],
        created: NDArray[np.int64],
        *,
        start: int,
        end: int,
    ) -> None:
        self._start, self._end = start, end
        self._span = (end - start) // _SECOND + 2
        known = ts < end
        self._clicks = np.sort(self._key(group[clicked[known]], ts[known]))
        entered = np.clip(created, start, end)
        order = np.argsort(self._key(group, entered), kind="stable")
        self._items = self._key(group, entered)[order]
        self._entered_sum = np.concatenate([[0.0], np.cumsum((entered[order] - start) / MICROSECONDS_A_DAY)])

    def rate(
        self, group: NDArray[np.int64] | int, ts: NDArray[np.int64] | int, prior: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """Clicks per item-day of `group` strictly before `ts`, shrunk towards `prior`; the three broadcast."""
        group, ts = np.broadcast_arrays(group, np.clip(ts, self._start, self._end))
        first, now = self._key(group, np.full_like(ts, self._start)), self._key(group, ts)
        clicks = np.searchsorted(self._clicks, now) - np.searchsorted(self._clicks, first)
        low, high = np.searchsorted(self._items, first), np.searchsorted(self._items, now)
        days = (ts - self._start) / MICROSECONDS_A_DAY
        exposure = (high - low) * days - (self._entered_sum[high] - self._entered_sum[low])
        return (clicks + PSEUDO_CLICKS) / (np.maximum(exposure, 0.0) + PSEUDO_CLICKS / prior)

    def _key(self, group: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        # Whole seconds: a key of group and time then fits in 63 bits for any catalogue and any log.
        return np.asarray(group, dtype=np.int64) * self._span + (ts - self._start) // _SECOND


class Popularity:
    """Log click rates of items, their categories and brands at a time (never later than `end`)."""

    def __init__(
        self, items: Items, clicked: NDArray[np.int64], ts: NDArray[np.int64], *, start: int, end: int
    ) -> None:
        self._category = np.unique(items.category, return_inverse=True)[1]
        self._brand = np.unique(items.brand, return_inverse=True)[1]
        everything = np.zeros(len(items), dtype=np.int64)
        self._all, self._by_category, self._by_brand, self._by_item = (
            ClickRates(group, clicked, ts, items.created, start=start, end=end)
            for group in (everything, self._category, self._brand, np.arange(len(items)))
        )

    def of(
        self, items: NDArray[np.int64], ts: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Log rates of the items (K,), of their categories and of their brands."""
        everything = self._all.rate(0, ts, _FIRST_GUESS)
        category = self._by_category.rate(self._category[items], ts, everything)
        brand = self._by_brand.rate(self._brand[items], ts, everything)
        return np.log(self._by_item.rate(items, ts, category)), np.log(category), np.log(brand)
