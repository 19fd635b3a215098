"""Stage `calibrate-pruning`: sweep settings and controls on validation days, choose, and draw the curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.decoding.ranker import GeneratorRanker
from onevision.errors import OneVisionError
from onevision.features.queries import QuerySet
from onevision.pruning.calibration import Point, Sweep, choose, setting_of
from onevision.pruning.config import PruningConfig
from onevision.pruning.controls import centre_crop, random_k, top_k
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import pareto_chart


def run(
    *,
    snapshot: Path,
    pairs: Path,
    encoder: Path,
    semantic_ids: Path,
    features: Path,
    generator: Path,
    out: Path,
    config: PruningConfig,
    seed: int,
) -> StageReport:
    """Calibrate attention-mass pruning; see docs/artifacts.md for what is written."""
    kinds = {"snapshot": snapshot, "pairs": pairs, "encoder": encoder, "semantic_ids": semantic_ids}
    kinds |= {"features": features, "generator": generator}
    parents = {kind: open_artifact(path, kind, verify=kind != "snapshot") for kind, path in kinds.items()}
    require_same_generation(*parents.values())
    start_artifact(out)
    ranker = GeneratorRanker.open(encoder, semantic_ids, generator)
    queries = QuerySet.load(pairs, encoder, features, split="validation", limit=config.queries)
    if not len(queries):
        raise OneVisionError(f"{pairs}: no validation query has a click; widen pairing.validation_days")
    number = ranker.catalogue.numbers()
    department = np.array(ranker.catalogue.table["department_id"].to_pylist(), dtype=object)
    answer = [[number[c] for c in clicked[:1] if c in number] for clicked in queries.clicked]
    sweep = Sweep(ranker, queries, answer, np.array([department[a[0]] if a else "" for a in answer], dtype=object))
    baseline = sweep.measure("all tokens", "none", None)
    points = [
        sweep.measure(f"mass {mass:g}", "attention mass", setting_of(mass, config), mass)
        for mass in sorted(config.masses)
    ]
    chosen = choose(baseline, points, config)
    # Controls stand at the size of the chosen setting, or of the middle of the sweep where none was chosen.
    size = max(1, round((chosen or points[len(points) // 2]).kept_mean))
    controls = [
        sweep.measure(f"top-{size}", "control", top_k(size)),
        sweep.measure(f"random-{size}", "control", random_k(size, seed)),
        sweep.measure(f"centre-{size}", "control", centre_crop(size)),
    ]
    sweep.time(baseline, None, config.timed_queries)
    if chosen is not None and chosen.mass is not None:
        sweep.time(chosen, setting_of(chosen.mass, config), config.timed_queries)
    setting = None if chosen is None or chosen.mass is None else setting_of(chosen.mass, config).model_dump()
    calibrated = {"split": "validation", "queries": len(queries), "generator": parents["generator"].identity}
    write_json(out / "pruning.json", {"chosen": setting, "calibrated_on": calibrated})
    write_json(out / "pareto.json", [p.as_dict() for p in (baseline, *points, *controls)])
    report = _report(baseline, points, controls, chosen, len(queries), config)
    finish_artifact(out, "pruning", parents=parents, counts=report.counts)
    return report


def _report(
    baseline: Point,
    points: list[Point],
    controls: list[Point],
    chosen: Point | None,
    queries: int,
    config: PruningConfig,
) -> StageReport:
    everything = [baseline, *points, *controls]
    families: dict[str, tuple[list[float], list[float]]] = {}
    for p in everything:
        x, y = families.setdefault(p.family, ([], []))
        x.append(p.mflops)
        y.append(p.hr10)
    picture = pareto_chart(
        families,
        title="Pruning: cost and hit rate",
        x_label="MFLOPs a query (generator)",
        y_label="HR@10 on validation days",
        chosen=None if chosen is None else (chosen.mflops, chosen.hr10),
        budget=baseline.hr10 - config.max_loss,
    )
    used = chosen or baseline
    warnings = [] if chosen else ["no setting keeps the budget: every token is read"]
    if chosen and any(c.hr10 > chosen.hr10 for c in controls):
        warnings.append("a control of the same size is better than attention mass on these queries")
    columns = ["setting", "HR@10", "HR@50", "worst department", "tokens", "tokens p95", "MFLOPs"]
    rows = [
        [p.name, *(round(v, 4) for v in (p.hr10, p.hr50, p.worst_department_loss, p.kept_mean, p.kept_p95, p.mflops))]
        for p in everything
    ]
    return StageReport(
        "calibrate-pruning",
        counts={"queries": queries, "settings": len(everything)},
        metrics={
            "kept_tokens": used.kept_mean,
            "kept_tokens_p95": used.kept_p95,
            "hr@10_lost": baseline.hr10 - used.hr10,
            "hr@50_lost": baseline.hr50 - used.hr50,
            "mflops": used.mflops,
            "mflops_saved_share": 1 - used.mflops / baseline.mflops,
            "latency_ms_p50": used.latency_ms_p50,
            "latency_ms_p50_unpruned": baseline.latency_ms_p50,
        },
        warnings=warnings,
        tables=[ReportTable("Settings", columns, rows)],
        figures=[Figure("Pareto curve", "svg", picture, "The dashed line is the least hit rate allowed.")],
    )
