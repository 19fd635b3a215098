"""Stage `evaluate`: dense neighbours, the cascade and the generators on the same held-out queries.

Every key of `metrics.json` is explained in `docs/metrics.md`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import (
    Artifact,
    finish_artifact,
    open_artifact,
    read_json,
    require_same_generation,
    start_artifact,
    write_json,
)
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.model import Encoder
from onevision.errors import OneVisionError
from onevision.evaluation.beside import CHAMPION, Beside
from onevision.evaluation.cascade import FOLDER as CASCADE
from onevision.evaluation.cascade import Cascade
from onevision.evaluation.comparison import Comparison, Truth, flat_intervals, interval_table
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.dense import DenseSearch
from onevision.evaluation.drift import Drift
from onevision.evaluation.gate import CHALLENGER
from onevision.evaluation.items import UNKNOWN, Items
from onevision.evaluation.leakage import check_leakage
from onevision.evaluation.outputs import gallery, ranks_table
from onevision.evaluation.searches import Searches, deal_histories
from onevision.evaluation.slices import query_slices, slice_differences
from onevision.evaluation.summary import figures, latency_table, warnings
from onevision.evaluation.systems import (
    Clock,
    System,
    cascade_system,
    dense_system,
    generator_system,
    image_tower_latency,
    oracle_systems,
    train_cascade,
)
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.photos import PhotoEncoder, Photos, as_served
from onevision.report import ReportTable, StageReport

COMPARED = (
    ("generator_pruned", "dense"),
    ("generator_pruned", "cascade"),
    ("generator_aligned", "dense"),
    ("generator_aligned", "cascade"),
    ("generator_aligned", "generator_sft"),
    ("generator_pruned", "generator_aligned"),
    ("generator_aligned", "generator_shuffled_history"),
    ("cascade", "dense"),
)
"""Paired differences that are reported."""
COMPARED_AT_NIGHT = ((CHALLENGER, "dense"), (CHALLENGER, CHAMPION))
"""The same of a night."""
RETRIEVAL_CUTOFFS = (1, 10)


def run(
    *,
    snapshot: Path,
    pairs: Path,
    encoder: Path,
    quantizer: Path,
    semantic_ids: Path,
    features: Path,
    generator_sft: Path,
    generator_aligned: Path,
    pruning: Path,
    out: Path,
    config: EvaluationConfig,
    seed: int,
    champion: Path | None = None,
) -> StageReport:
    """Measure every system on the newest test queries that somebody clicked on.

    Args:
        champion: the bundle that is served now; it answers the same queries, and drift since its training is measured.
            Beside it stand only the systems that a night is decided by: dense neighbours and the challenger.

    Raises:
        ArtifactError: inputs of different generations, or something held out was trained on.
        OneVisionError: no test query to measure.
    """
    began = time.perf_counter()
    shop = Snapshot.open(snapshot)
    parents = _open_parents(
        shop.artifact,
        pairs=(pairs, "pairs"),
        encoder=(encoder, "encoder"),
        quantizer=(quantizer, "quantizer"),
        semantic_ids=(semantic_ids, "semantic_ids"),
        features=(features, "features"),
        generator_sft=(generator_sft, "generator"),
        generator_aligned=(generator_aligned, "generator"),
        pruning=(pruning, "pruning"),
        **({"champion": (champion, "bundle")} if champion else {}),
    )
    start_artifact(out)
    items = Items.load(semantic_ids, shop)
    queries, counts = held_out_queries(pairs, encoder, features, items, config.max_queries)
    counts |= check_leakage(pairs, queries.query_id, queries.image_id, items.item_id[items.cold].tolist())
    searches = Searches.of(queries, items)
    clock = Clock(len(queries), config.latency_queries)
    dense = DenseSearch(items.view_embedding, items.view_item, len(items))
    systems = {"dense": dense_system(dense, searches, clock)}
    cascade = None
    if not champion:
        cascade = train_cascade(items, dense, shop, pairs, encoder, features, config, seed)
        systems["cascade"] = cascade_system(cascade, searches, clock)
        systems |= _generators(encoder, semantic_ids, generator_sft, generator_aligned, queries, config, clock, seed)
    served = GeneratorRanker.open(encoder, semantic_ids, generator_aligned, pruning)
    asked = as_served(queries, served, encoder, shop.images)
    systems[CHALLENGER] = generator_system(CHALLENGER, served, asked, config.beam_width, clock)
    systems |= oracle_systems(shop, queries, items)
    beside = Beside.ask(parents["champion"], semantic_ids, queries, shop, items, clock) if champion else None
    drift = None
    if beside:
        systems[CHAMPION] = beside.system
        drift = Drift.measure(shop, pairs, encoder, quantizer, parents["champion"], config.max_drift)
    compared = COMPARED_AT_NIGHT if champion else COMPARED
    comparison = Comparison.of(
        {name: system.items for name, system in systems.items()},
        Truth.of([rows.tolist() for rows in searches.clicked], [rows.tolist() for rows in searches.ordered]),
        bucket=items.bucket,
        samples=config.bootstrap_samples,
        seed=seed,
    )
    slices = query_slices(queries, items, pairs, encoder)
    by_slice = slice_differences(comparison, slices)
    metrics = comparison.metrics() | comparison.difference_metrics(compared) | comparison.slice_metrics(slices)
    for pattern, intervals in by_slice.items():
        metrics |= flat_intervals(pattern, intervals)
    metrics |= {f"{n}/invalid_rate": s.invalid_rate for n, s in systems.items() if s.invalid_rate is not None}
    metrics |= instance_retrieval(queries, items, dense) | _encoding_metrics(quantizer)
    if served.setting.prunes_tower:
        metrics |= instance_retrieval(asked, items, dense, "tower_pruned")
    if beside and drift:
        metrics |= beside.metrics(systems[CHALLENGER], comparison) | drift.metrics()
    _write(out, metrics, queries, systems, comparison, items, config, seed)
    if cascade:
        cascade.save(out / CASCADE)
    settings = {"beam_width": config.beam_width, "bootstrap_samples": config.bootstrap_samples, "seed": seed}
    finish_artifact(out, "evaluation", parents=parents, counts=counts, extra=settings)
    latencies = {name: system.latency for name, system in systems.items() if system.latency}
    latencies |= _tower_latencies(encoder, served, shop, queries, clock)
    report = StageReport("evaluate", counts=counts, metrics=metrics | _flat(latencies))
    report.warnings = warnings(comparison, slices) + (drift.warnings() if drift else [])
    report.tables = [
        comparison.table(),
        comparison.sid_table(),
        comparison.difference_table(compared),
        comparison.slice_table(slices),
        interval_table("Differences by slice", by_slice),
        latency_table(latencies, len(items)),
        *([_cascade_table(cascade)] if cascade else []),
        *([drift.table()] if drift else []),
    ]
    report.figures = figures(comparison, slices)
    report.seconds = time.perf_counter() - began
    return report


def held_out_queries(
    pairs: Path, encoder: Path, features: Path, items: Items, limit: int
) -> tuple[QuerySet, dict[str, int]]:
    """The newest test queries whose first click is on a known item, and counts of what was left out and why."""
    queries = QuerySet.load(pairs, encoder, features, split="test", limit=limit)
    first_known = np.array([items.row(clicked[0]) != UNKNOWN for clicked in queries.clicked], dtype=bool)
    table = pq.read_table(pairs / "queries.parquet", columns=["split", "clicked"])
    test = table.filter(pc.equal(table["split"], "test"))
    with_click = int(pc.sum(pc.greater(pc.list_value_length(test["clicked"]), 0)).as_py() or 0)
    counts = {
        "queries_test": test.num_rows,
        "queries_without_click": test.num_rows - with_click,
        "queries_older_than_the_newest": with_click - len(queries),
        "queries_clicked_item_unknown": int((~first_known).sum()),
        "queries_measured": int(first_known.sum()),
        "items": len(items),
    }
    if not first_known.any():
        raise OneVisionError(
            f"{pairs}: none of its {test.num_rows} test queries has a click on an item of the catalogue; "
            "raise pairing.test_days or give a snapshot with clicks on its last days"
        )
    return queries.take(np.flatnonzero(first_known)), counts


def instance_retrieval(queries: QuerySet, items: Items, dense: DenseSearch, name: str = "align") -> dict[str, float]:
    """Photo -> its own product among all items, `<name>/r@k`; over cold products `<name>/cold_r@k`."""
    target = np.array([items.row(item) for item in queries.photographed], dtype=np.int64)
    known = target != UNKNOWN
    metrics: dict[str, float] = {}
    for prefix, rows in (("", known), ("cold_", known & items.cold[target])):
        metrics[f"{name}/{prefix}queries"] = float(rows.sum())
        if rows.any():
            found = dense.search(queries.embedding[rows], max(RETRIEVAL_CUTOFFS))[0] == target[rows, None]
            metrics |= {f"{name}/{prefix}r@{k}": float(found[:, :k].any(axis=1).mean()) for k in RETRIEVAL_CUTOFFS}
    return metrics


def _generators(
    encoder: Path,
    semantic_ids: Path,
    sft: Path,
    aligned: Path,
    queries: QuerySet,
    config: EvaluationConfig,
    clock: Clock,
    seed: int,
) -> dict[str, System]:
    """The generators that are not served: what a full training is understood by."""
    after_sft = GeneratorRanker.open(encoder, semantic_ids, sft)
    after_alignment = GeneratorRanker.open(encoder, semantic_ids, aligned)
    shuffled = queries.with_histories_of(deal_histories(queries.user_id, seed))
    asked: tuple[tuple[str, GeneratorRanker, QuerySet, Clock | None], ...] = (
        ("generator_sft", after_sft, queries, clock),
        ("generator_aligned", after_alignment, queries, clock),
        ("generator_shuffled_history", after_alignment, shuffled, None),
    )
    return {
        name: generator_system(name, ranker, answered, config.beam_width, timer)
        for name, ranker, answered, timer in asked
    }


def _write(
    out: Path,
    metrics: dict[str, float],
    queries: QuerySet,
    systems: dict[str, System],
    comparison: Comparison,
    items: Items,
    config: EvaluationConfig,
    seed: int,
) -> None:
    rankings = {name: system.items for name, system in systems.items()}
    write_json(out / "metrics.json", metrics)
    pq.write_table(ranks_table(queries, rankings, comparison.ranks, items), out / "ranks.parquet")
    write_json(out / "gallery.json", gallery(queries, rankings, items, config.gallery, seed))


def _tower_latencies(
    encoder: Path, served: GeneratorRanker, shop: Snapshot, queries: QuerySet, clock: Clock
) -> dict[str, dict[str, float]]:
    """Of the image tower as it is, and as it is served where pruning touches it."""
    photos = Photos(PhotoEncoder.of(Encoder.from_pretrained(encoder).freeze(), served), shop.images)
    settings = {"image_tower": PruningSetting()}
    if served.setting.prunes_tower:
        settings["image_tower_pruned"] = served.setting
    return {name: image_tower_latency(photos, queries, clock, setting) for name, setting in settings.items()}


def _flat(latencies: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}/{key}": ms for name, taken in latencies.items() for key, ms in taken.items()}


def _open_parents(snapshot: Artifact, **inputs: tuple[Path, str]) -> dict[str, Artifact]:
    parents = {"snapshot": snapshot} | {name: open_artifact(path, kind) for name, (path, kind) in inputs.items()}
    require_same_generation(*parents.values())
    return parents


def _encoding_metrics(quantizer: Path) -> dict[str, float]:
    path = quantizer / "metrics.json"
    return read_json(path) if path.exists() else {}


def _cascade_table(cascade: Cascade) -> ReportTable:
    tried = "; ".join(f"{name}: {value:.4f}" for name, value in cascade.validation_ndcg_.items())
    rows = [[name, f"{100 * share:.1f}"] for name, share in list(cascade.importance().items())[:12]]
    caption = f"Share of the ranker's gain, percent. NDCG@10 on validation searches: {tried}."
    return ReportTable("What the cascade ranks by", ["feature", "gain"], rows, caption)
