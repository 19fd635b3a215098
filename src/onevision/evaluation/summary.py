"""What the evaluation's report says in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onevision.evaluation.comparison import Comparison
from onevision.report import Figure, ReportTable

SHOWN_SYSTEMS = ("dense", "cascade", "generator_pruned")
"""Systems of the figure by slice: what a shop could serve."""
FEW_QUERIES = 100
_DOUBTS = (
    ("cascade", "dense", "the cascade's ranker does not improve on dense neighbours: a weak baseline proves little"),
    ("generator_aligned", "generator_shuffled_history", "a user's own history helps no more than a stranger's"),
)
"""Systems a and b, and what to doubt where a is not above b by more than chance."""


def warnings(comparison: Comparison, slices: Mapping[str, NDArray[np.bool_]]) -> list[str]:
    """Sentences on what should make a reader doubt the figures or the model."""
    found = []
    if len(comparison.truth) < FEW_QUERIES:
        found.append(f"only {len(comparison.truth)} queries were measured: the intervals are wide")
    for a, b, doubt in _DOUBTS:
        if comparison.values.keys() >= {a, b}:
            interval = comparison.difference(a, b)["mrr@10"]
            if interval.low <= 0:
                found.append(f"{doubt} (MRR@10 {100 * interval.mean:+.1f} points, from {100 * interval.low:+.1f})")
    if comparison.values.keys() >= {"generator_aligned", "generator_sft"}:
        loss = comparison.difference("generator_aligned", "generator_sft")["hr@10"]
        if loss.high < 0:
            found.append(f"preference alignment lowered HR@10 by {-100 * loss.mean:.1f} points")
    empty = [name for name, inside in slices.items() if not inside.any()]
    if empty:
        found.append(f"no query in {', '.join(empty)}")
    return found


def latency_table(latencies: Mapping[str, Mapping[str, float]], items: int) -> ReportTable:
    """Percentiles in milliseconds."""
    rows = [[name, *(f"{taken[f'latency_ms_p{q}']:.2f}" for q in (50, 95, 99))] for name, taken in latencies.items()]
    caption = (
        f"Milliseconds for one query at batch size 1 among {items} items, on this machine. image_tower: decoding and "
        "embedding the photo, which every system needs first and no other row holds; pruned: as it is served, where "
        "patches leave it. dense: exact search. cascade: search, features and ranker. Generators: prompt, constrained "
        "beams and expansion of their buckets."
    )
    return ReportTable("Latency", ["system", "p50", "p95", "p99"], rows, caption)


def figures(comparison: Comparison, slices: Mapping[str, NDArray[np.bool_]]) -> list[Figure]:
    """HR@10 and MRR@10 of every system with intervals, and HR@10 by slice."""
    from onevision.reporting.charts import grouped_bars, interval_chart

    drawn = []
    for metric in ("hr@10", "mrr@10"):
        intervals = {system: comparison.intervals(system)[metric] for system in comparison.values}
        rows = [(name, 100 * i.mean, 100 * i.low, 100 * i.high) for name, i in intervals.items()]
        title = f"{metric.upper()} of every system"
        drawn.append(Figure(title, "svg", interval_chart(rows, title=title, x_label="percent"), "95 % intervals."))
    kept = [name for name, inside in slices.items() if inside.any() and ":" not in name]
    series = {
        system: [100 * float(comparison.values[system]["hr@10"][slices[name]].mean()) for name in kept]
        for system in SHOWN_SYSTEMS
        if system in comparison.values
    }
    title = "HR@10 by slice"
    labels = [name.replace("_", " ") for name in kept]
    drawn.append(Figure(title, "svg", grouped_bars(labels, series, title=title, y_label="percent")))
    return drawn
