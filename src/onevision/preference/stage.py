"""Stage `align-preferences`: alignment with what shoppers preferred, and a reranker of the first places, each kept only
if it wins on validation days; and the reward model, whose calibrated probabilities are served."""

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
from onevision.preference.reranking import FEWEST_SEARCHES, fit_on_both
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
    """Align the generator: how shoppers are read, then a reranker; of each the parent's goes on if it did not win."""
    kinds = {"pairs": pairs, "encoder": encoder, "semantic_ids": semantic_ids, "features": features}
    kinds["generator"] = generator
    parents = {kind: open_artifact(path, kind) for kind, path in kinds.items()}
    require_same_generation(*parents.values())
    start_artifact(out)
    torch.manual_seed(seed)
    catalogue = Catalogue.open(semantic_ids)
    model = Generator.from_pretrained(generator)
    parent, choice = (ChoiceModel.from_pretrained(generator, catalogue) for _ in range(2))
    parent.reranker = choice.reranker = None  # of a generator that was aligned itself: it is fitted anew
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
    log_p = torch.from_numpy(reference.log_p)
    monitor, best = align(choice, lists, slates, log_p, gains, config, lambda: days.check(choice), seed)
    if best is not None:
        choice.load_state_dict(best)
        monitor.served = [days.ask(parent), days.ask(choice)]
    kept = bool(monitor.served) and monitor.served[1].wins(monitor.served[0], config)
    choice = choice.requires_grad_(False) if kept else parent
    if kept:  # beams follow the new tastes
        ranker.use_choice(choice)
        train, slates = searches("train", config.queries)
        held_out = searches("validation", None)
        days = ValidationDays(ranker, *held_out, fitted.model if fitted else None, config)
    if config.rerank_epochs and len(days.queries) >= FEWEST_SEARCHES:
        found = fit_on_both(choice, (train, slates), held_out, catalogue, config, seed)
        monitor.reranked = [days.check(choice), days.judge(choice, found.scores)]
        if monitor.reranked[1].wins(monitor.reranked[0], config):
            choice.reranker = found.reranker
    if choice is not parent or choice.reranker is not None:
        fitted = fit_reward(choice, pairs, catalogue, (train, slates), held_out, seed)
    model.save_pretrained(out)
    choice.save_pretrained(out)
    if fitted:
        fitted.model.save_pretrained(out)
    gates = {"kept": kept, "reranked": choice.reranker is not None}
    write_json(out / "history.json", {"steps": monitor.steps, **monitor.values, **gates})
    report = make_report(monitor, fitted, gates, config, lists, train, catalogue)
    finish_artifact(out, "generator", parents=parents, counts=report.counts, extra=gates)
    return report
