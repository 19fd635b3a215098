"""The report of the stage: how many queries have which history, how long and how fresh."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onevision.features.definitions import SEGMENT, SEQUENCES
from onevision.report import ReportTable, StageReport

MICROSECONDS_A_DAY = 86_400_000_000


def summarize(rows: pa.Table, queries: pa.Table, source_rows: dict[str, int]) -> StageReport:
    """Counts, shares and freshness.

    Args:
        rows: `historical_rows`, row for row as `queries` (with `ts`, `split`, `user_id`).
        source_rows: rows of each source by view.
    """
    asked = queries["ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    any_history = np.zeros(rows.num_rows, dtype=bool)
    metrics: dict[str, float] = {}
    table = []
    for sequence in SEQUENCES:
        lengths = pc.list_value_length(rows[sequence.name]).to_numpy()
        filled = lengths > 0
        any_history |= filled
        valid_from = rows[sequence.valid_from].to_numpy()
        age = (asked[filled] - valid_from[filled]) / MICROSECONDS_A_DAY
        median_age = float(np.median(age)) if len(age) else 0.0
        mean_length = float(lengths[filled].mean()) if filled.any() else 0.0
        metrics[f"{sequence.name}/empty_share"] = float(1 - filled.mean())
        metrics[f"{sequence.name}/mean_length"] = mean_length
        metrics[f"{sequence.name}/median_age_days"] = median_age
        table.append(
            [
                sequence.name,
                source_rows[sequence.name],
                int(filled.sum()),
                f"{1 - filled.mean():.1%}",
                f"{mean_length:.1f}",
                int(lengths.max()),
                f"{median_age:.2f}",
            ]
        )
    metrics["segment/null_share"] = rows[SEGMENT].null_count / rows.num_rows
    counts = {
        "queries_in": queries.num_rows,
        "queries_out": rows.num_rows,
        "queries_with_history": int(any_history.sum()),
        "queries_without_history": int((~any_history).sum()),
        "users_in_queries": pc.count_distinct(queries["user_id"]).as_py(),
        **{f"{name}_rows": count for name, count in source_rows.items()},
    }
    report = StageReport("materialize-features", counts=counts, metrics=metrics)
    report.tables.append(
        ReportTable(
            "User sequences at the moment of each query",
            ["view", "rows", "queries with it", "empty", "mean length", "longest", "median age, days"],
            table,
            "Rows: moments at which some user's sequence changed. Mean length and age are over queries that have it; "
            "age is the time since the sequence last changed.",
        )
    )
    report.tables.append(_by_split(queries, any_history))
    if not any_history.any():
        report.warnings.append("No query has any history: the generator will learn nothing about users.")
    return report


def _by_split(queries: pa.Table, any_history: np.ndarray) -> ReportTable:
    splits = np.asarray(queries["split"].to_pylist())
    rows = []
    for split in ("train", "validation", "test"):
        mask = splits == split
        share = f"{any_history[mask].mean():.1%}" if mask.any() else "-"
        rows.append([split, int(mask.sum()), int(any_history[mask].sum()), share])
    return ReportTable("Queries with any history", ["split", "queries", "with history", "share"], rows)
