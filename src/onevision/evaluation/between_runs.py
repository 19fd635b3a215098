"""Differences between two runs on the searches that both measured, with intervals: is the change more than chance?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.metrics import Interval, paired_difference_interval
from onevision.report import ReportTable

RANKS = "ranks.parquet"
MEASURES = ("hr@1", "hr@10", "mrr@10")


def paired_differences(before: Path, after: Path) -> ReportTable | None:
    """After less before, system by system; None if the two share no searches.

    Args:
        before, after: `evaluation` artifacts. Searches are matched by id: both must be of one snapshot.
    """
    old, new = _ranks(before), _ranks(after)
    rows = []
    queries = 0
    for system in (name for name in old if name in new):
        common = sorted(old[system].keys() & new[system].keys())
        if not common:
            continue
        queries = len(common)
        values = [_values(np.array([ranks[system][query] for query in common])) for ranks in (old, new)]
        rows.append(
            [system.replace("_", " ")]
            + [_percent(paired_difference_interval(values[1][name], values[0][name])) for name in MEASURES]
        )
    if not rows:
        return None
    caption = f"Points over {queries:,} searches, 95 % by bootstrap; * excludes 0."
    return ReportTable("After less before, on the same searches", ["system", *MEASURES], rows, caption)


def _ranks(evaluation: Path) -> dict[str, dict[str, float]]:
    """System -> search -> rank of the first clicked item from 1; infinite where it was not found."""
    table = pq.read_table(evaluation / RANKS, columns=["query_id", "system", "rank"])
    ranks: dict[str, dict[str, float]] = {}
    for query, system, rank in zip(*(column.to_pylist() for column in table.columns), strict=True):
        ranks.setdefault(system, {})[query] = np.inf if rank is None else rank
    return ranks


def _values(rank: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    reciprocal = np.where(rank <= 10, 1 / rank, 0.0)
    return {"hr@1": (rank <= 1).astype(float), "hr@10": (rank <= 10).astype(float), "mrr@10": reciprocal}


def _percent(interval: Interval) -> str:
    star = " *" if interval.low > 0 or interval.high < 0 else ""
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]{star}"
