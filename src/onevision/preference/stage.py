"""Stage `align-preferences`: listwise DPO with an anchor, kept only if it beats its parent on validation days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.modelling import Generator
from onevision.metrics.ranking import hit_rate, mrr
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import build_lists
from onevision.preference.training import Monitor, Validation, align
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import line_chart
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
    choice = ChoiceModel.from_pretrained(generator, catalogue)
    ranker = GeneratorRanker(model, catalogue, choice)
    train = QuerySet.load(pairs, encoder, features, split="train", limit=config.queries)
    validation = QuerySet.load(pairs, encoder, features, split="validation")
    own = ranker.rank(train, config.beam_width, config.beam_width, progress="own beams")
    lists = build_lists(train, own.items, catalogue, config)
    sids = torch.from_numpy(catalogue.codes.astype(np.int64))
    number = catalogue.numbers()
    relevant = [[number[c] for c in clicked[:1] if c in number] for clicked in validation.clicked]

    def validate() -> Validation:
        ranking = ranker.rank(validation, config.beam_width, 10)
        cosine = np.einsum("qkd,qd->qk", catalogue.embedding[ranking.items], validation.embedding)
        return Validation(
            float(hit_rate(ranking.items, relevant, 10).mean()),
            float(mrr(ranking.items, relevant, 10).mean()),
            float(cosine[ranking.items >= 0].mean()),
        )

    prompts = ranker.prompts.build(train)
    monitor, best = align(model, prompts, lists, sids, config, validate, seed)
    if best is None:
        model = Generator.from_pretrained(generator)
    else:
        model.load_state_dict(best)
    model.save_pretrained(out)
    choice.save_pretrained(out)
    write_json(out / "history.json", {"steps": monitor.steps, **monitor.values, "kept": best is not None})
    report = _report(monitor, best is not None, lists.counts | {"queries": len(train)})
    finish_artifact(out, "generator", parents=parents, counts=report.counts, extra={"kept": best is not None})
    return report


def _report(monitor: Monitor, kept: bool, counts: dict[str, int]) -> StageReport:
    rows = [
        ["parent" if n == 0 else f"check {n}", round(c.hit_rate, 4), round(c.mrr, 4), round(c.similarity, 4)]
        for n, c in enumerate(monitor.checks)
    ]
    parent, best = monitor.checks[0], max(monitor.checks, key=lambda c: c.mrr)
    metrics = {
        "kept": float(kept),
        "validation_parent_hr@10": parent.hit_rate,
        "validation_parent_mrr@10": parent.mrr,
        "validation_best_mrr@10": best.mrr,
        "validation_best_hr@10": best.hit_rate,
    }
    logs = {name: monitor.values.get(name, []) for name in ("chosen", "rejected")}
    likelihood = line_chart(monitor.steps, logs, title="Log-probability of chosen and rejected items", y_label="log p")
    shares = {"accuracy": monitor.values.get("accuracy", [])}
    accuracy = line_chart(monitor.steps, shares, title="Preference accuracy", y_label="share of losers")
    return StageReport(
        "align-preferences",
        counts=counts,
        metrics=metrics,
        warnings=[] if kept else ["no gain on validation days: the parent goes on unchanged"],
        tables=[ReportTable("Validation days", ["checkpoint", "HR@10", "MRR@10", "image similarity"], rows)],
        figures=[
            Figure("Likelihood", "svg", likelihood, "A falling chosen line is the known failure of DPO."),
            Figure("Preference accuracy", "svg", accuracy, "Share of losers that the model ranks below the winner."),
        ],
    )
