"""Parts of the held-out queries: who asks, what is clicked, how often it was clicked before, which kind of picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.evaluation.comparison import Comparison
from onevision.evaluation.gate import CHALLENGER
from onevision.evaluation.items import Items
from onevision.features.queries import QuerySet
from onevision.metrics import Interval

HEAD_SHARE = 0.5
"""Share of the training clicks that the head's items hold together."""
COMPARED_ON = ("personal", "cold_item", "warm_item")
"""Slices on which what is served is set against the cascade."""


def query_slices(queries: QuerySet, items: Items, pairs: Path, encoder: Path) -> dict[str, NDArray[np.bool_]]:
    """Parts of the queries by name -> (Q,) bool; the item clicked first decides on head, tail and department."""
    views = pq.read_table(encoder / "images.parquet", columns=["view"])["view"].take(pa.array(queries.image_row))
    view = np.array(views.to_pylist(), dtype=np.str_)
    clicked = items.rows(row[0] for row in queries.clicked)
    department = items.department[clicked]
    head = head_items(training_clicks(pairs, items))
    slices = {
        "cold_item": queries.cold_item,
        "warm_item": ~queries.cold_item,
        "cold_user": queries.cold_user,
        "warm_user": ~queries.cold_user,
        "personal": queries.personal,
        "not_personal": ~queries.personal,
        "head": head[clicked],
        "tail": (~head & ~items.cold)[clicked],
    }
    slices |= {f"view:{name}": view == name for name in np.unique(view).tolist()}
    return slices | {f"department:{name}": department == name for name in np.unique(department).tolist()}


def training_clicks(pairs: Path, items: Items) -> NDArray[np.int64]:
    """Clicks (I,) of each item in the training searches."""
    table = pq.read_table(pairs / "queries.parquet", columns=["split", "clicked"])
    clicked = table.filter(pc.equal(table["split"], "train"))["clicked"]
    return np.bincount(items.rows(pc.list_flatten(clicked).to_pylist()), minlength=len(items))


def head_items(clicks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The fewest items that together hold `HEAD_SHARE` of the clicks (I,); of equally clicked ones the first."""
    order = np.argsort(-clicks, kind="stable")
    before = clicks[order].cumsum() - clicks[order]
    head = np.zeros(len(clicks), dtype=bool)
    head[order] = before < HEAD_SHARE * clicks.sum()
    return head


def slice_differences(comparison: Comparison, slices: dict[str, NDArray[np.bool_]]) -> dict[str, dict[str, Interval]]:
    """What is served less the cascade on `COMPARED_ON`, and on warm items less on cold ones.

    Returns:
        pattern of the keys, such as `generator_pruned_minus_cascade/<metric>/personal` -> metric -> interval.
    """
    found = {}
    for name in COMPARED_ON if "cascade" in comparison.values else ():
        if slices[name].any():
            key = f"{CHALLENGER}_minus_cascade/<metric>/{name}"
            found[key] = comparison.difference(CHALLENGER, "cascade", slices[name])
    warm, cold = slices["warm_item"], slices["cold_item"]
    if warm.any() and cold.any():
        found[f"{CHALLENGER}/<metric>/warm_item_minus_cold_item"] = comparison.gap(CHALLENGER, warm, cold)
    return found
