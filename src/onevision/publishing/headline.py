"""The figures that stand at the top of a report and a model card, with how sure they are.

The rank of the first relevant item tells HR, MRR and NDCG of a query, so the intervals follow from `ranks.parquet`
of an evaluation: on the same bootstrap draws for every system, and the same ones as the evaluation's own tables.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.artifacts import Artifact
from onevision.metrics import Interval, mean_intervals

METRICS = ("hr@1", "hr@5", "hr@10", "hr@50", "mrr@10", "ndcg@10")


@dataclass(frozen=True)
class SystemFigures:
    """One system's figures, in the order of `METRICS`."""

    system: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Headline:
    """All systems on the same queries.

    Attributes:
        test_queries: hash of the query ids: two evaluations with the same one measured the same queries.
    """

    queries: int
    test_queries: str
    systems: tuple[SystemFigures, ...]

    def system(self, name: str) -> SystemFigures | None:
        """The figures of a system; None if it was not measured."""
        return next((s for s in self.systems if s.system == name), None)


def read_headline(evaluation: Artifact) -> Headline:
    """Figures of every system of an evaluation, in the order that they stand in."""
    ranks = pq.read_table(evaluation.file("ranks.parquet"), columns=["query_id", "system", "rank"])
    systems = list(dict.fromkeys(ranks["system"].to_pylist()))
    queries: list[str] = list(dict.fromkeys(ranks["query_id"].to_pylist()))
    columns = [column for system in systems for column in _columns(ranks, system, queries)]
    intervals = mean_intervals(
        np.stack(columns, axis=1), evaluation.extra["bootstrap_samples"], evaluation.extra["seed"]
    )
    width = len(METRICS)
    return Headline(
        queries=len(queries),
        test_queries=hashlib.sha256("\n".join(sorted(queries)).encode()).hexdigest()[:16],
        systems=tuple(
            SystemFigures(system, tuple(intervals[n * width : (n + 1) * width])) for n, system in enumerate(systems)
        ),
    )


def percent(interval: Interval) -> str:
    """`43.1 [40.9, 45.2]`."""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _columns(ranks: pa.Table, system: str, queries: list[str]) -> list[NDArray[np.float64]]:
    """A column a metric, a row a query; no rank is an infinite one."""
    rows = zip(ranks["query_id"].to_pylist(), ranks["system"].to_pylist(), ranks["rank"].to_pylist(), strict=True)
    rank_of = {query: rank for query, name, rank in rows if name == system and rank is not None}
    rank = np.array([rank_of.get(query, np.inf) for query in queries], dtype=np.float64)
    top = rank <= 10
    return [
        *((rank <= k).astype(np.float64) for k in (1, 5, 10, 50)),
        np.where(top, 1 / rank, 0.0),
        np.where(top, 1 / np.log2(1 + rank), 0.0),
    ]
