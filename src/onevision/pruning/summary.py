"""The report of the stage: the curve, settings beside controls, and what the chosen one saves."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, field

from onevision.pruning.calibration import TIMED_BATCH
from onevision.pruning.config import PruningConfig
from onevision.pruning.point import Point
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import pareto_chart


@dataclass
class Found:
    """What was measured beside the baseline: settings and controls, the setting that is chosen, and warnings."""

    chosen: Point | None
    points: list[Point]
    controls: list[Point] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def summarize(baseline: Point, found: Found, queries: int, config: PruningConfig) -> StageReport:
    """What the report says of settings measured on so many queries."""
    chosen, everything = found.chosen, [baseline, *found.points, *found.controls]
    used = chosen or baseline
    families: dict[str, tuple[list[float], list[float]]] = {}
    for p in everything:
        x, y = families.setdefault(p.family, ([], []))
        x.append(p.cost)
        y.append(p.hr10)
    picture = pareto_chart(
        families,
        title="Pruning: cost and hit rate",
        x_label="MFLOPs a query (image tower, generator, choice)",
        y_label="HR@10 on validation days",
        chosen=None if chosen is None else (chosen.cost, chosen.hr10),
        budget=baseline.hr10 - config.max_loss,
    )
    warnings = list(found.warnings)
    if chosen is None:
        warnings.append("no setting keeps the budget: nothing is pruned")
    return StageReport(
        "calibrate-pruning",
        counts={"queries": queries, "settings": len(everything)},
        metrics=_metrics(baseline, used),
        warnings=warnings,
        tables=[_settings(everything), _timings([baseline, used])],
        figures=[Figure("Pareto curve", "svg", picture, "The dashed line is the least hit rate allowed.")],
    )


def _settings(points: list[Point]) -> ReportTable:
    columns = ["setting", "HR@10", "HR@50", "worst department", "tokens", "tokens p95", "history tokens"]
    columns += ["left out later", "steps", "MFLOPs"]
    columns += ["looks", "tower MFLOPs", "all MFLOPs"]
    patches = points[0].tower.patches_mean is not None
    columns += ["patches", "patches p95"] if patches else []
    rows = [
        [
            p.name,
            *(round(v, 4) for v in (p.hr10, p.hr50, p.worst_department_loss)),
            *(round(v, 1) for v in (p.kept_mean, p.kept_p95, p.history_mean, p.spared_mean, p.steps_mean, p.mflops)),
            round(p.tower.looks_mean, 2),
            *(round(v, 1) for v in (p.tower.mflops, p.cost)),
            *(round(v or 0, 1) for v in (p.tower.patches_mean, p.tower.patches_p95) if patches),
        ]
        for p in points
    ]
    return ReportTable("Settings", columns, rows)


def _timings(points: list[Point]) -> ReportTable:
    """The generator alone beside whole searches, of the settings that were timed."""
    rows = [
        [point.name, what, *(round(ms, 2) for part in (timing.single, timing.batch) for ms in astuple(part)), rate]
        for point in points
        for what, timing in (("prompt to items", point.prompt_to_items), ("photo to items", point.photo_to_items))
        if timing
        for rate in [round(timing.queries_per_second)]
    ]
    batch = [f"{TIMED_BATCH} queries, p{q}" for q in (50, 95, 99)]
    columns = ["setting", "measured", "one query, p50", "p95", "p99", *batch, "queries a second"]
    return ReportTable("Milliseconds", columns, rows)


def _metrics(baseline: Point, used: Point) -> dict[str, float]:
    metrics = {
        "kept_tokens": used.kept_mean,
        "kept_tokens_p95": used.kept_p95,
        "hr@10_lost": baseline.hr10 - used.hr10,
        "hr@50_lost": baseline.hr50 - used.hr50,
        "steps": used.steps_mean,
        "mflops": used.mflops,
        "mflops_saved_share": 1 - used.mflops / baseline.mflops,
        "looks": used.tower.looks_mean,
        "tower_mflops": used.tower.mflops,
        "tower_mflops_saved_share": 1 - used.tower.mflops / baseline.tower.mflops,
        "mflops_with_tower": used.cost,
        "mflops_with_tower_saved_share": 1 - used.cost / baseline.cost,
    }
    if used.tower.patches_mean is not None and used.tower.patches_p95 is not None:
        metrics |= {"tower_patches": used.tower.patches_mean, "tower_patches_p95": used.tower.patches_p95}
    timed = (
        ("", used.prompt_to_items, baseline.prompt_to_items),
        ("photo_", used.photo_to_items, baseline.photo_to_items),
    )
    for prefix, timing, unpruned in timed:
        if timing and unpruned:
            for name, part, whole in (
                ("latency_ms", timing.single, unpruned.single),
                ("batch_16_ms", timing.batch, unpruned.batch),
            ):
                metrics |= {f"{prefix}{name}_{p}": ms for p, ms in asdict(part).items()}
                metrics[f"{prefix}{name}_p50_unpruned"] = whole.p50
            metrics[f"{prefix}queries_per_second_batch_16"] = timing.queries_per_second
            metrics[f"{prefix}queries_per_second_batch_16_unpruned"] = unpruned.queries_per_second
    return metrics
