"""Stage `calibrate-pruning`: sweep strategies and controls on validation days, choose, and draw the curve.

A refresh begins with its parent's setting, and sweeps only where that no longer keeps the budget.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker, read_setting
from onevision.encoder.model import Encoder
from onevision.encoder.patch_pruning import PatchRule
from onevision.errors import OneVisionError
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.calibration import BEAMS, Sweep, beats_controls, choose
from onevision.pruning.canary import LOOKS, Seen
from onevision.pruning.config import PruningConfig
from onevision.pruning.controls import of_size, prompt_controls
from onevision.pruning.photos import PhotoEncoder, Photos
from onevision.pruning.point import Point
from onevision.pruning.strategies import (
    BEAM_STRATEGIES,
    MASS_STRATEGIES,
    PROMPT_STRATEGIES,
    TOWER_STRATEGIES,
    Strategy,
    fewer_looks,
)
from onevision.pruning.summary import Found, summarize
from onevision.report import StageReport


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
    eye = PhotoEncoder.of(Encoder.from_pretrained(encoder).freeze(), ranker)
    photos = Photos(eye, Snapshot.open(snapshot, verify=False).images)
    of_answer = department[[item for (item,) in answer]]
    sweep = Sweep(ranker, queries, photos, answer, of_answer)
    baseline = sweep.measure("everything", "none", PruningSetting())

    held = read_setting(parent / "pruning.json") if parent else None
    kept = [sweep.measure("the parent's", "parent", held)] if held else []
    found = Found(choose(baseline, kept, config), kept)
    if found.chosen is None:
        found = _swept(sweep, baseline, config, seed)
        if eye.encoder.looks > 1 and config.second_looks:
            _sweep_looks(sweep, baseline, found, config, seed)
        if eye.encoder.patch_layers:
            _sweep_patches(sweep, baseline, found, config, seed)
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
    report = summarize(baseline, found, len(queries), config)
    finish_artifact(out, "pruning", parents=parents, counts=report.counts)
    return report


def _swept(sweep: Sweep, baseline: Point, config: PruningConfig, seed: int) -> Found:
    """Beams first, then the prompt on top; attention mass must beat the controls at the same mean size."""
    beams = _measured(sweep, BEAM_STRATEGIES, config, baseline.setting)
    base = choose(baseline, beams, config) or baseline
    points = _measured(sweep, PROMPT_STRATEGIES, config, base.setting)
    found = Found(None, [*beams, *points])
    allowed = list(found.points)
    families = {family: [p for p in points if p.family == family] for family in MASS_STRATEGIES}
    while (chosen := choose(baseline, allowed, config)) and chosen.family in families:
        swept = families.pop(chosen.family)
        controls = prompt_controls(sweep, chosen, base.setting, seed)
        found.controls += controls
        if beats_controls(chosen, controls):
            break
        found.warnings.append(f"{chosen.name} is no better than a control of the same mean size, so it is not taken")
        allowed = [p for p in allowed if p not in swept]
    for swept in families.values():  # of what is not chosen, controls stand beside the middle of the sweep
        if swept:
            found.controls += prompt_controls(sweep, swept[len(swept) // 2], base.setting, seed)
    found.chosen = chosen
    return found


def _sweep_looks(sweep: Sweep, baseline: Point, found: Found, config: PruningConfig, seed: int) -> None:
    """On top of what was found, all photos are looked at once, or those that are clear; as many at random stand beside,
    which the former need not beat: it is the simpler rule."""
    base = found.chosen or baseline
    points = _measured(sweep, {"fewer looks": fewer_looks(sweep.similarity)}, config, base.setting)
    once, *shares = points
    chosen, _ = _chosen_on_top(baseline, base, points, config, config.second_look_loss)
    beside = chosen if chosen in shares else shares[len(shares) // 2]
    share = float(np.mean(sweep.counted[beside.name][LOOKS] > 1))
    again = np.random.default_rng([seed, 12]).random(len(sweep.queries)) < share
    control = sweep.measure(f"random {share:.0%} looked at again", "control", base.setting, again=again)
    warning = f"a second look at {share:.0%} of the photos, those in doubt, is no better than a control, so all have it"
    _take(found, chosen, points, [control], warning, simpler=chosen is once)


def _sweep_patches(sweep: Sweep, baseline: Point, found: Found, config: PruningConfig, seed: int) -> None:
    """On top of what was found, patches leave the image tower; attention mass must beat the controls there too."""
    base = found.chosen or baseline
    points = _measured(sweep, TOWER_STRATEGIES, config, base.setting)
    chosen, beside = _chosen_on_top(baseline, base, points, config)
    size = max(1, round(beside.tower.patches_mean or 0))
    controls = [
        sweep.measure(
            f"{name}-{size} patches", "control", base.setting, patches=PatchRule(rule, beside.setting.tower_depth)
        )
        for name, rule in of_size(size, seed).items()
    ]
    warning = f"at {size} patches attention mass is no better than a control, so all patches go through the image tower"
    _take(found, chosen, points, controls, warning)


def _chosen_on_top(
    baseline: Point, base: Point, points: list[Point], config: PruningConfig, given_up: float | None = None
) -> tuple[Point | None, Point]:
    """Of settings on top of another: the one that is chosen, None where that other stays, and the one that controls
    stand beside: the chosen, else the middle of the sweep."""
    chosen = choose(baseline, [base, *points], config, given_up)
    chosen = None if chosen is base else chosen
    return chosen, chosen or points[len(points) // 2]


def _take(
    found: Found,
    chosen: Point | None,
    points: list[Point],
    controls: list[Point],
    warning: str,
    *,
    simpler: bool = False,
) -> None:
    """Put down what was measured, and take what was chosen where it beats the controls, or is simpler; else warn."""
    found.points += points
    found.controls += controls
    if chosen and (simpler or beats_controls(chosen, controls)):
        found.chosen = chosen
    elif chosen:
        found.warnings.append(warning)


def _measured(
    sweep: Sweep, strategies: dict[str, Strategy], config: PruningConfig, base: PruningSetting
) -> list[Point]:
    return [
        sweep.measure(name, family, setting)
        for family, strategy in strategies.items()
        for name, setting in strategy(config, base)
    ]
