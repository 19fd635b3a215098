"""Stage `align-preferences`: alignment with what shoppers preferred, kept only if it beats its parent on validation
days; and the reward model, whose calibrated probabilities are served."""

from __future__ import annotations

from pathlib import Path

import torch

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_fitting import OPENED
from onevision.generator.modelling import Generator
from onevision.preference.checks import ValidationDays
from onevision.preference.config import PreferenceConfig
from onevision.preference.levels import gains_of
from onevision.preference.lists import build_lists
from onevision.preference.page import make_report
from onevision.preference.reference import Reference
from onevision.preference.reward_fitting import fit_reward
from onevision.preference.slates import Slates, make_slates
from onevision.preference.training import align
from onevision.report import StageReport
from onevision.semantic_ids.catalogue import Catalogue


def run(
    *,
    pairs: Path,
    encoder: Path,
    semantic_ids: Path,
    features: Path,
    generator: Path,
    out: Path,
    config: PreferenceConfig,
    seed: int,
) -> StageReport:
    """Align the generator; the artifact holds the parent's weights if alignment did not win."""
    kinds = {"pairs": pairs, "encoder": encoder, "semantic_ids": semantic_ids, "features": features}
    kinds["generator"] = generator
    parents = {kind: open_artifact(path, kind) for kind, path in kinds.items()}
    require_same_generation(*parents.values())
    start_artifact(out)
    torch.manual_seed(seed)
    catalogue = Catalogue.open(semantic_ids)
    model = Generator.from_pretrained(generator)
    parent = ChoiceModel.from_pretrained(generator, catalogue)
    ranker = GeneratorRanker(model, catalogue, parent)
    ranker.use_pruning(OPENED)

    def searches(split: str, limit: int | None) -> tuple[QuerySet, Slates]:
        queries = QuerySet.load(pairs, encoder, features, split=split, limit=limit, clicked_only=False)
        found, log_p = ranker.find(queries, config.beam_width)
        return queries, make_slates(parent, queries, catalogue, found, log_p, counted=split == "train")

    train, slates = searches("train", config.queries)
    held_out = searches("validation", None)
    fitted = fit_reward(parent, pairs, catalogue, (train, slates), held_out, seed)
    days = ValidationDays(ranker, *held_out, fitted.model if fitted else None, config)
    reference = Reference.of(parent, train.query_id, slates)
    reference.save(out)
    lists = build_lists(train, reference.ranked(), catalogue, config)
    gains = torch.from_numpy(gains_of(train, slates.items.numpy(), catalogue))
    choice = ChoiceModel.from_pretrained(generator, catalogue)
    log_p = torch.from_numpy(reference.log_p)
    monitor, best = align(choice, lists, slates, log_p, gains, config, lambda: days.check(choice), seed)
    if best is not None:
        choice.load_state_dict(best)
        monitor.served = [days.ask(parent), days.ask(choice)]
    kept = bool(monitor.served) and monitor.served[1].wins(monitor.served[0], config)
    if not kept:
        choice = parent
    else:
        fitted = fit_reward(choice.requires_grad_(False), pairs, catalogue, (train, slates), held_out, seed)
    model.save_pretrained(out)
    choice.save_pretrained(out)
    if fitted:
        fitted.model.save_pretrained(out)
    write_json(out / "history.json", {"steps": monitor.steps, **monitor.values, "kept": kept})
    report = make_report(monitor, fitted, kept, config, lists, train, catalogue)
    finish_artifact(out, "generator", parents=parents, counts=report.counts, extra={"kept": kept})
    return report
