"""Sections of the run report that are computed from artifacts, not copied from a stage's report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from onevision.artifacts import open_artifact, read_json
from onevision.data.snapshot import Snapshot
from onevision.publishing.bundle import DECISION
from onevision.publishing.headline import METRICS, percent, read_headline
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import bar_panels, grouped_bars, interval_chart
from onevision.reporting.pictures import Thumbnails

ORACLE = "oracle_"
CONTROL = "generator_shuffled_history"
HEADLINE_METRIC = METRICS.index("hr@10")
GALLERY = {"cascade": "cascade", "generator_pruned": "generator"}
"""System of `gallery.json` -> its name for people."""
_QUANTIZERS = ("vrq", "rq_kmeans")


def verdict(bundle: Path | None) -> str:
    """What the gate decided, in words; empty before it has."""
    if bundle is None:
        return ""
    decision = read_json(bundle / DECISION)
    failed = [rule["name"] for rule in decision["rules"] if not rule["passed"]]
    return "promoted" if decision["promote"] else f"not promoted ({', '.join(failed)})"


def headline_section(evaluation: Path) -> dict[str, Any]:
    """Every system's figures with intervals, the best of those that could serve in bold, and HR@10 as a chart."""
    headline = read_headline(open_artifact(evaluation, "evaluation", verify=False))
    servable = [s for s in headline.systems if not s.system.startswith(ORACLE) and s.system != CONTROL]
    best = [max((s.intervals[n].mean for s in servable), default=0.0) for n in range(len(METRICS))]
    rows = [
        {
            "system": s.system.replace("_", " "),
            "aside": s not in servable,
            "cells": [
                {"text": percent(i), "best": s in servable and i.mean == best[n]} for n, i in enumerate(s.intervals)
            ],
        }
        for s in headline.systems
    ]
    hr10 = [(s.system.replace("_", " "), s.intervals[HEADLINE_METRIC]) for s in servable]
    ceilings = {
        s.system.replace("_", " "): 100 * s.intervals[HEADLINE_METRIC].mean
        for s in headline.systems
        if s.system.startswith(ORACLE)
    }
    chart = interval_chart(
        [(name, 100 * i.mean, 100 * i.low, 100 * i.high) for name, i in hr10],
        title="HR@10 of every system",
        x_label="HR@10, percent, with 95 % intervals",
        references=ceilings,
    )
    return {
        "queries": headline.queries,
        "metrics": METRICS,
        "rows": rows,
        "oracles": bool(ceilings),
        "figure": Figure("HR@10 of every system", "svg", chart),
    }


def codes_section(
    artifacts: Mapping[str, Path], reports: Mapping[str, StageReport], figures: list[Figure]
) -> dict[str, Any]:
    """Items on each code of every level, the quantiser's own `figures`, and how it does on products never seen."""
    shown = [_code_use(artifacts["assign-ids"])] if "assign-ids" in artifacts else []
    shown += figures
    metrics = reports["train-vrq"].metrics if "train-vrq" in reports else {}
    if "vrq/cold_vc@1" in metrics:
        shown.append(_cold_agreement(metrics))
    return {"figures": shown, "tables": [_encoding_table(metrics)] if metrics else []}


def gallery_section(evaluation: Path, shop: Snapshot) -> list[dict[str, Any]]:
    """Queries with what two systems showed first; an item carries why it is marked."""
    pictures = Thumbnails(shop)
    table = shop.table("items")
    titles = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))

    def card(item: str, entry: dict[str, Any]) -> dict[str, Any]:
        clicked, photographed = item in entry["clicked"], item == entry["photographed"]
        marks = [word for word, holds in (("clicked", clicked), ("in the photo", photographed)) if holds]
        return {
            "title": titles.get(item) or item,
            "picture": pictures.item(item),
            "mark": " · ".join(marks),
            "clicked": clicked,
        }

    return [
        {
            "query_id": entry["query_id"],
            "photo": pictures.image(entry["query_image"]),
            "clicked": [card(item, entry) for item in entry["clicked"][:1]],
            "systems": [
                (name, [card(item, entry) for item in entry[system][:5]])
                for system, name in GALLERY.items()
                if system in entry
            ],
        }
        for entry in read_json(evaluation / "gallery.json")
    ]


def _code_use(semantic_ids: Path) -> Figure:
    codes = np.array(pq.read_table(semantic_ids / "items.parquet", columns=["sid"])["sid"].to_pylist())
    sizes = read_json(semantic_ids / "trie.json")["codebook_sizes"]
    panels = {}
    for level, size in enumerate(sizes):
        use = np.sort(np.bincount(codes[:, level], minlength=size))[::-1]
        panels[f"level {level + 1}: {np.count_nonzero(use)} of {size} used"] = use.tolist()
    chart = bar_panels(panels, title="Items on each code", x_label="code, by use", y_label="items")
    return Figure("Items on each code", "svg", chart, "Items whose semantic ID has the code, the most used code first.")


def _cold_agreement(metrics: Mapping[str, float]) -> Figure:
    prefix, title = "cold_vc@", "Code agreement for products never trained on"
    levels = sorted(int(name.rpartition("@")[2]) for name in metrics if name.startswith(f"vrq/{prefix}"))
    series = {name: [metrics[f"{name}/{prefix}{level}"] for level in levels] for name in _QUANTIZERS}
    chart = grouped_bars([f"VC@{level}" for level in levels], series, title=title, y_label="held-out photos")
    return Figure(title, "svg", chart, "VC@l: share of held-out photos that have their product's first l codes.")


def _encoding_table(metrics: Mapping[str, float]) -> ReportTable:
    names = [name.removeprefix("vrq/") for name in metrics if name.startswith("vrq/")]
    rows = [[name, *(metrics.get(f"{q}/{name}") for q in _QUANTIZERS)] for name in names]
    return ReportTable("Encoding metrics", ["metric", *_QUANTIZERS], rows, "The same vectors, the same codebook sizes.")
