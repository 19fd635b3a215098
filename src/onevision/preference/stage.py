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
from onevision.metrics.ranking import hit_rate, ndcg
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import CLICKED, ORDERED, build_lists
from onevision.preference.training import Monitor, Validation, align, make_slates
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
    found, log_p = ranker.find(train, config.beam_width)
    slates = make_slates(choice, train, catalogue, found, log_p)
    order = slates.scores(choice).argsort(dim=1, descending=True, stable=True)
    lists = build_lists(train, slates.items.gather(1, order).numpy(), catalogue, config)
    number = catalogue.numbers()
    validation = validation.take([row for row, clicked in enumerate(validation.clicked) if clicked[0] in number])
    first = [[number[clicked[0]]] for clicked in validation.clicked]
    rewards = [
        {number[i]: ORDERED if i in ordered else CLICKED for i in (*clicked, *ordered) if i in number}
        for clicked, ordered in zip(validation.clicked, validation.ordered, strict=True)
    ]
    wanted, gains = [list(r) for r in rewards], [list(r.values()) for r in rewards]

    def validate() -> Validation:
        choice.eval()
        ranker.use_choice(choice)
        ranking = ranker.rank(validation, config.beam_width, 10)
        cosine = np.einsum("qkd,qd->qk", catalogue.embedding[ranking.items], validation.embedding)
        return Validation(
            float(hit_rate(ranking.items, first, 10).mean()),
            float(ndcg(ranking.items, wanted, 10, gains).mean()),
            float(cosine[ranking.items >= 0].mean()),
        )

    monitor, best = align(choice, lists, slates, config, validate, seed)
    if best is None:
        choice = ChoiceModel.from_pretrained(generator, catalogue)
    else:
        choice.load_state_dict(best)
    model.save_pretrained(out)
    choice.save_pretrained(out)
    write_json(out / "history.json", {"steps": monitor.steps, **monitor.values, "kept": best is not None})
    counts = lists.counts | {"lists_usable": monitor.usable, "queries": len(train)}
    report = _report(monitor, best is not None, counts)
    finish_artifact(out, "generator", parents=parents, counts=report.counts, extra={"kept": best is not None})
    return report


def _report(monitor: Monitor, kept: bool, counts: dict[str, int]) -> StageReport:
    rows = [
        ["parent" if n == 0 else f"check {n}", round(c.hit_rate, 4), round(c.ndcg, 4), round(c.similarity, 4)]
        for n, c in enumerate(monitor.checks)
    ]
    parent, best = monitor.checks[0], max(monitor.checks, key=lambda c: c.ndcg)
    metrics = {
        "kept": float(kept),
        "validation_parent_hr@10": parent.hit_rate,
        "validation_parent_order_ndcg@10": parent.ndcg,
        "validation_best_order_ndcg@10": best.ndcg,
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
        tables=[
            ReportTable("Validation days", ["checkpoint", "HR@10", "NDCG@10, orders double", "image similarity"], rows)
        ],
        figures=[
            Figure("Likelihood", "svg", likelihood, "A falling chosen line is the known failure of DPO."),
            Figure("Preference accuracy", "svg", accuracy, "Share of losers that the model ranks below the winner."),
        ],
    )
