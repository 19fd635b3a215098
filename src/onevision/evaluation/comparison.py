"""Rankings of the same queries side by side: metrics a query, intervals, paired differences and slices.

Nothing here knows where a ranking comes from, so baselines, generators and a champion bundle are compared alike.
A key of the flat metrics is `<system>/<metric>` or `<a>_minus_<b>/<metric>`, with `/<slice>` behind it over a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onevision.metrics import Interval, first_rank, hit_rate, mean_gaps, mean_intervals, mrr, ndcg, recall
from onevision.report import ReportTable

PLACES = 350
"""Length of every ranking that is compared: as many as the cascade of the paper hands to its last stage."""
HIT_RATES = (1, 5, 10, 50, 350)
SLICE_METRICS = ("hr@1", "hr@10", "hr@50", "hr@350", "mrr@10", "ndcg@10")
DIFFERENCE_METRICS = (*SLICE_METRICS, "order_ndcg@10")
OF_IDS = "sid_"
"""Prefix of the metrics of semantic IDs, where a ranking of items is read as one of their different IDs."""
ORDER_GAIN = 2.0
"""Gain of an ordered item in `order_ndcg`; a clicked one has 1."""


@dataclass(frozen=True)
class Truth:
    """What was right for each query, as item rows; every query has at least one relevant item.

    Attributes:
        relevant: items of HR, MRR and NDCG; any one is a hit, and NDCG is never above HR.
        clicked, ordered: items of recall and `order_ndcg`.
    """

    relevant: list[list[int]]
    clicked: list[list[int]]
    ordered: list[list[int]]

    @classmethod
    def of(cls, clicked: Sequence[Sequence[int]], ordered: Sequence[Sequence[int]] | None = None) -> Truth:
        """Truth of a log, clicks by time: the item clicked first is the relevant one."""
        orders = _distinct(ordered) if ordered is not None else [[] for _ in clicked]
        return cls([[int(items[0])] for items in clicked], _distinct(clicked), orders)

    @classmethod
    def of_relevant(cls, relevant: Sequence[Sequence[int]]) -> Truth:
        """Truth by judgement: all relevant items count alike."""
        return cls(_distinct(relevant), _distinct(relevant), [[] for _ in relevant])

    def __len__(self) -> int:
        return len(self.relevant)


def _distinct(lists: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(dict.fromkeys(int(item) for item in items)) for items in lists]


def measure(
    items: NDArray[np.int64], truth: Truth, bucket: NDArray[np.integer] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Every metric of one ranking, one value a query.

    Args:
        items: (Q, k) item rows, best first, -1 where there is none; hit rates of more than k places are left out.
        bucket: (I,) number of each item's semantic ID, for the same of semantic IDs, such as `sid_hr@10`.
    """
    wanted = _distinct([[*c, *o] for c, o in zip(truth.clicked, truth.ordered, strict=True)])
    gains = [
        [ORDER_GAIN if item in ordered else 1.0 for item in row]
        for row, ordered in zip(wanted, truth.ordered, strict=True)
    ]
    values = _found(items, truth.relevant)
    values["recall@10"] = recall(items, truth.clicked, 10)
    values["recall@50"] = recall(items, truth.clicked, 50)
    values["order_ndcg@10"] = ndcg(items, wanted, 10, gains)
    if bucket is not None:
        relevant = _distinct([bucket[row].tolist() for row in truth.relevant])
        ids = _found(distinct_buckets(items, bucket, items.shape[1]), relevant)
        values |= {f"{OF_IDS}{name}": column for name, column in ids.items()}
    return values


def _found(ranking: NDArray[np.int64], relevant: list[list[int]]) -> dict[str, NDArray[np.float64]]:
    """HR, MRR and NDCG of a ranking of items or of semantic IDs."""
    values = {f"hr@{k}": hit_rate(ranking, relevant, k) for k in HIT_RATES if k <= ranking.shape[1]}
    return values | {"mrr@10": mrr(ranking, relevant, 10), "ndcg@10": ndcg(ranking, relevant, 10)}


def distinct_buckets(items: NDArray[np.int64], bucket: NDArray[np.integer], k: int) -> NDArray[np.int64]:
    """The first `k` different semantic IDs of each ranking, (Q, k), -1 where its items have fewer."""
    out = np.full((len(items), k), -1, dtype=np.int64)
    for row, ranking in enumerate(items):
        seen = list(dict.fromkeys(bucket[ranking[ranking >= 0]].tolist()))[:k]
        out[row, : len(seen)] = seen
    return out


@dataclass
class Comparison:
    """Several systems' rankings of the same queries, measured.

    Attributes:
        truth: what was right.
        samples, seed: of the bootstrap.
        values: system -> metric -> (Q,) values.
        ranks: system -> (Q,) rank of the first relevant item, 0 where none is among the places.
    """

    truth: Truth
    samples: int
    seed: int
    values: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    ranks: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rankings: Mapping[str, NDArray[np.int64]],
        truth: Truth,
        *,
        bucket: NDArray[np.integer] | None = None,
        samples: int = 1000,
        seed: int = 0,
    ) -> Comparison:
        """Measure rankings (name -> (Q, PLACES) item rows)."""
        comparison = cls(truth, samples, seed)
        for name, items in rankings.items():
            comparison.values[name] = measure(items, truth, bucket)
            comparison.ranks[name] = first_rank(items, truth.relevant)
        return comparison

    def metrics(self) -> dict[str, float]:
        """Mean of every metric, `<system>/<metric>`."""
        return {
            f"{system}/{name}": float(column.mean())
            for system, columns in self.values.items()
            for name, column in columns.items()
        }

    def intervals(self, system: str) -> dict[str, Interval]:
        """Mean and 95 % interval of every metric of a system."""
        columns = self.values[system]
        intervals = mean_intervals(np.stack(list(columns.values()), axis=1), self.samples, self.seed)
        return dict(zip(columns, intervals, strict=True))

    def difference(self, a: str, b: str, inside: NDArray[np.bool_] | None = None) -> dict[str, Interval]:
        """Mean and 95 % interval of `a - b` over the same queries, all or those `inside`, for `DIFFERENCE_METRICS`."""
        columns = self._compared(a) - self._compared(b)
        columns = columns if inside is None else columns[inside]
        return dict(zip(DIFFERENCE_METRICS, mean_intervals(columns, self.samples, self.seed), strict=True))

    def gap(self, system: str, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, Interval]:
        """A system's mean over the queries `one` less that over `other`, with the 95 % interval of two samples."""
        columns = self._compared(system)
        gaps = mean_gaps(columns[one], columns[other], self.samples, self.seed)
        return dict(zip(DIFFERENCE_METRICS, gaps, strict=True))

    def _compared(self, system: str) -> NDArray[np.float64]:
        """A column a metric of `DIFFERENCE_METRICS`."""
        return np.stack([self.values[system][m] for m in DIFFERENCE_METRICS], axis=1)

    def difference_metrics(self, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        """Paired differences, flat: `<a>_minus_<b>/<metric>`, `.../<metric>/low` and `.../<metric>/high`."""
        flat: dict[str, float] = {}
        for a, b in pairs:
            flat |= flat_intervals(f"{a}_minus_{b}/<metric>", self.difference(a, b))
        return flat

    def slice_metrics(self, slices: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
        """Means over parts of the queries, `<system>/<metric>/<slice>`, and `queries/<slice>`; empty parts are out."""
        flat: dict[str, float] = {}
        for name, inside in slices.items():
            if not inside.any():
                continue
            flat[f"queries/{name}"] = float(inside.sum())
            for system, columns in self.values.items():
                known = [m for m in SLICE_METRICS if m in columns]  # an oracle has no HR@350
                flat |= {f"{system}/{m}/{name}": float(columns[m][inside].mean()) for m in known}
        return flat

    def table(self, title: str = "Systems on the same queries") -> ReportTable:
        """Every metric of items of every system with its interval, in percent."""
        return self._table(title, [name for name in self._names() if not name.startswith(OF_IDS)])

    def sid_table(self) -> ReportTable:
        """The same of semantic IDs."""
        return self._table("Their semantic IDs", [name for name in self._names() if name.startswith(OF_IDS)])

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for columns in self.values.values() for name in columns))

    def _table(self, title: str, names: list[str]) -> ReportTable:
        rows = []
        for system in self.values:
            intervals = self.intervals(system)
            rows.append([system, *(percent(intervals[n]) if n in intervals else "" for n in names)])
        caption = (
            f"{len(self.truth)} queries; percent, with the 95 % interval of {self.samples} bootstrap samples. "
            "In a log HR, MRR and NDCG are of the item clicked first, recall of all clicked ones; orders weigh double "
            "in order_ndcg."
        )
        return ReportTable(title, ["system", *names], rows, caption)

    def difference_table(self, pairs: Sequence[tuple[str, str]]) -> ReportTable:
        """Paired differences in points, starred where the interval excludes 0."""
        return interval_table("Paired differences", {f"{a} - {b}": self.difference(a, b) for a, b in pairs})

    def slice_table(self, slices: Mapping[str, NDArray[np.bool_]], metric: str = "hr@10") -> ReportTable:
        """One metric of every system on every part of the queries, in percent."""
        kept = {name: inside for name, inside in slices.items() if inside.any()}
        rows = [
            [name, int(inside.sum()), *(f"{100 * v[metric][inside].mean():.1f}" for v in self.values.values())]
            for name, inside in kept.items()
        ]
        return ReportTable(f"{metric} by slice", ["slice", "queries", *self.values], rows, "Percent.")


def flat_intervals(pattern: str, intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Intervals by metric as flat metrics: a key is `pattern` with its `<metric>` filled in, then `/low`, `/high`."""
    flat: dict[str, float] = {}
    for metric, interval in intervals.items():
        key = pattern.replace("<metric>", metric)
        flat |= {key: interval.mean, f"{key}/low": interval.low, f"{key}/high": interval.high}
    return flat


def interval_table(title: str, differences: Mapping[str, Mapping[str, Interval]]) -> ReportTable:
    """Differences by name, for `DIFFERENCE_METRICS`, in points; starred where the interval excludes 0."""
    rows = [
        [name, *(percent(c) + (" *" if c.low > 0 or c.high < 0 else "") for c in cells.values())]
        for name, cells in differences.items()
    ]
    caption = "Percentage points with 95 % intervals, over the same queries but where slices differ; * excludes 0."
    return ReportTable(title, ["difference", *DIFFERENCE_METRICS], rows, caption)


def percent(interval: Interval) -> str:
    """An interval in percent, such as `43.1 [40.9, 45.2]`."""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
