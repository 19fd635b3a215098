"""Stage `calibrate-pruning`: sweep strategies and controls on validation days, choose, and draw the curve.

A refresh begins with its parent's setting, and sweeps only where that no longer keeps the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.attention_mass import KeepRule
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker, read_setting
from onevision.encoder.model import Encoder
from onevision.encoder.patch_pruning import PatchRule
from onevision.errors import OneVisionError
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.calibration import BEAMS, Point, Sweep, beats_controls, choose
from onevision.pruning.canary import Seen
from onevision.pruning.config import PruningConfig
from onevision.pruning.controls import centre_crop, random_k, top_k
from onevision.pruning.photos import Photos
from onevision.pruning.strategies import BEAM_STRATEGIES, PROMPT_STRATEGIES, TOWER_STRATEGIES, Strategy
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import pareto_chart


@dataclass
class Found:
    """What was measured beside the baseline: settings and controls, the setting that is chosen, and warnings."""

    chosen: Point | None
    points: list[Point]
    controls: list[Point] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    parent: Path | None = None,
) -> StageReport:
    """Calibrate what beams, prompts and image tower leave out; see docs/artifacts.md for what is written.

    Args:
        parent: an earlier `pruning` artifact; its setting stays where it keeps the budget today.
    """
    kinds = {"snapshot": snapshot, "pairs": pairs, "encoder": encoder, "semantic_ids": semantic_ids}
    kinds |= {"features": features, "generator": generator}
    parents = {kind: open_artifact(path, kind, verify=kind != "snapshot") for kind, path in kinds.items()}
    if parent:
        parents["parent"] = open_artifact(parent, "pruning")
    require_same_generation(*parents.values())
    start_artifact(out)
    ranker = GeneratorRanker.open(encoder, semantic_ids, generator)
    queries = QuerySet.load(pairs, encoder, features, split="validation", limit=config.queries)
    number = ranker.catalogue.numbers()
    queries = queries.take(np.flatnonzero([clicked[0] in number for clicked in queries.clicked]))
    if not len(queries):
        raise OneVisionError(f"{pairs}: no validation query has a click; widen pairing.validation_days")
    department = np.array(ranker.catalogue.table["department_id"].to_pylist(), dtype=object)
    answer = [[number[clicked[0]]] for clicked in queries.clicked]
    photos = Photos(Encoder.from_pretrained(encoder), Snapshot.open(snapshot, verify=False).images)
    of_answer = department[[item for (item,) in answer]]
    sweep = Sweep(ranker, queries, photos, answer, of_answer)
    baseline = sweep.measure("everything", "none", PruningSetting())

    held = read_setting(parent / "pruning.json") if parent else None
    kept = [sweep.measure("the parent's", "parent", held)] if held else []
    found = Found(choose(baseline, kept, config), kept)
    if found.chosen is None:
        found = _swept(sweep, baseline, config, seed)
        if photos.encoder.patch_layers:
            _sweep_tower(sweep, baseline, found, config, seed)
        found.points[:0] = kept
    chosen = found.chosen
    if chosen not in kept:  # the parent's setting was timed when it was chosen
        for point in (baseline, *([chosen] if chosen else [])):
            sweep.time(point, config.timed_queries)
    setting = None if chosen is None else chosen.setting.model_dump()
    seen = None if chosen is None else Seen.measure(sweep.counted[chosen.name], BEAMS, seed).as_dict()
    calibrated = {"split": "validation", "queries": len(queries), "generator": parents["generator"].identity}
    write_json(out / "pruning.json", {"chosen": setting, "calibrated_on": calibrated, "canary": seen})
    write_json(out / "pareto.json", [p.as_dict() for p in (baseline, *found.points, *found.controls)])
    report = _report(baseline, found, len(queries), config)
    finish_artifact(out, "pruning", parents=parents, counts=report.counts)
    return report


def _swept(sweep: Sweep, baseline: Point, config: PruningConfig, seed: int) -> Found:
    """Beams first, then the prompt on top; attention mass must beat the controls at the same mean size."""
    beams = _measured(sweep, BEAM_STRATEGIES, config, baseline.setting)
    base = choose(baseline, beams, config) or baseline
    points = _measured(sweep, PROMPT_STRATEGIES, config, base.setting)
    chosen = choose(baseline, [*beams, *points], config)
    masses = [p for p in points if p.setting.mass < 1]
    # Controls stand at the size of the chosen setting, or of the middle of the sweep where it reads all tokens.
    size = max(1, round((chosen if chosen in masses else masses[len(masses) // 2]).kept_mean))
    controls = [
        sweep.measure(f"{name}-{size}", "control", base.setting, rule) for name, rule in _rules(size, seed).items()
    ]
    attention = chosen if chosen in masses else None
    if attention and not beats_controls(attention, controls):
        warning = f"at {size} tokens attention mass is no better than a control, so all image tokens are read"
        simpler = choose(baseline, [*beams, *(p for p in points if p not in masses)], config)
        return Found(simpler, [*beams, *points], controls, [warning])
    return Found(chosen, [*beams, *points], controls)


def _sweep_tower(sweep: Sweep, baseline: Point, found: Found, config: PruningConfig, seed: int) -> None:
    """On top of what was found, patches leave the image tower; attention mass must beat the controls there too."""
    base = found.chosen or baseline
    points = _measured(sweep, TOWER_STRATEGIES, config, base.setting)
    chosen = choose(baseline, [base, *points], config)
    chosen = None if chosen is base else chosen
    point = chosen or points[len(points) // 2]
    size = max(1, round(point.tower.patches_mean)) if point.tower else 1
    controls = [
        sweep.measure(
            f"{name}-{size} patches", "control", base.setting, patches=PatchRule(rule, point.setting.tower_depth)
        )
        for name, rule in _rules(size, seed).items()
    ]
    found.points += points
    found.controls += controls
    if chosen and beats_controls(chosen, controls):
        found.chosen = chosen
    elif chosen:
        found.warnings.append(
            f"at {size} patches attention mass is no better than a control, so all patches go through the image tower"
        )


def _measured(
    sweep: Sweep, strategies: dict[str, Strategy], config: PruningConfig, base: PruningSetting
) -> list[Point]:
    return [
        sweep.measure(name, family, setting)
        for family, strategy in strategies.items()
        for name, setting in strategy(config, base)
    ]


def _rules(size: int, seed: int) -> dict[str, KeepRule]:
    """The controls that keep so many tokens or patches of every picture."""
    return {"top": top_k(size), "random": random_k(size, seed), "centre": centre_crop(size)}


def _report(baseline: Point, found: Found, queries: int, config: PruningConfig) -> StageReport:
    chosen, everything = found.chosen, [baseline, *found.points, *found.controls]
    used = chosen or baseline
    families: dict[str, tuple[list[float], list[float]]] = {}
    for p in everything:
        x, y = families.setdefault(p.family, ([], []))
        x.append(p.cost)
        y.append(p.hr10)
    tower = baseline.tower is not None
    picture = pareto_chart(
        families,
        title="Pruning: cost and hit rate",
        x_label="MFLOPs a query (image tower, generator, choice)" if tower else "MFLOPs a query (generator and choice)",
        y_label="HR@10 on validation days",
        chosen=None if chosen is None else (chosen.cost, chosen.hr10),
        budget=baseline.hr10 - config.max_loss,
    )
    warnings = list(found.warnings)
    if chosen is None:
        warnings.append("no setting keeps the budget: nothing is pruned")
    columns = ["setting", "HR@10", "HR@50", "worst department", "tokens", "tokens p95", "steps", "MFLOPs"]
    columns += ["patches", "patches p95", "tower MFLOPs"] if tower else []
    rows = [
        [p.name, *(round(v, 4) for v in (p.hr10, p.hr50, p.worst_department_loss)), *(round(v, 1) for v in cost)]
        for p in everything
        for cost in [[p.kept_mean, p.kept_p95, p.steps_mean, p.mflops, *_tower_columns(p)]]
    ]
    return StageReport(
        "calibrate-pruning",
        counts={"queries": queries, "settings": len(everything)},
        metrics=_metrics(baseline, used) | (_timings(baseline, used) if baseline.queries_per_second else {}),
        warnings=warnings,
        tables=[ReportTable("Settings", columns, rows)],
        figures=[Figure("Pareto curve", "svg", picture, "The dashed line is the least hit rate allowed.")],
    )


def _metrics(baseline: Point, used: Point) -> dict[str, float]:
    metrics = {
        "kept_tokens": used.kept_mean,
        "kept_tokens_p95": used.kept_p95,
        "hr@10_lost": baseline.hr10 - used.hr10,
        "hr@50_lost": baseline.hr50 - used.hr50,
        "steps": used.steps_mean,
        "mflops": used.mflops,
        "mflops_saved_share": 1 - used.mflops / baseline.mflops,
    }
    if used.tower and baseline.tower:
        metrics |= {
            "tower_patches": used.tower.patches_mean,
            "tower_patches_p95": used.tower.patches_p95,
            "tower_mflops": used.tower.mflops,
            "tower_mflops_saved_share": 1 - used.tower.mflops / baseline.tower.mflops,
        }
    return metrics


def _timings(baseline: Point, used: Point) -> dict[str, float]:
    timings = {
        "latency_ms_p50": used.latency_ms_p50,
        "latency_ms_p95": used.latency_ms_p95,
        "latency_ms_p99": used.latency_ms_p99,
        "latency_ms_p50_unpruned": baseline.latency_ms_p50,
        "batch_16_ms_p50": used.batch_ms_p50,
        "batch_16_ms_p95": used.batch_ms_p95,
        "batch_16_ms_p99": used.batch_ms_p99,
        "batch_16_ms_p50_unpruned": baseline.batch_ms_p50,
        "queries_per_second_batch_16": used.queries_per_second,
        "queries_per_second_batch_16_unpruned": baseline.queries_per_second,
    }
    if used.tower and baseline.tower:
        timings |= {
            "tower_ms_p50": used.tower.ms_p50,
            "tower_ms_p50_unpruned": baseline.tower.ms_p50,
            "tower_batch_16_ms_p50": used.tower.batch_ms_p50,
            "tower_batch_16_ms_p50_unpruned": baseline.tower.batch_ms_p50,
        }
    return timings


def _tower_columns(p: Point) -> list[float]:
    return [p.tower.patches_mean, p.tower.patches_p95, p.tower.mflops] if p.tower else []
