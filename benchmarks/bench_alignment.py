"""Objectives of preference alignment side by side: each against the same SFT parent, on test searches.

python benchmarks/bench_alignment.py runs/latest [more runs, such as other seeds] --json alignment.json

What the parent's beams find is found once; objectives reorder it. Every objective is trained from the reference that
the run's `align-preferences` stored, with the defaults of its recipe section but for what its name says; its checkpoint
is chosen by order-weighted NDCG@10 on validation searches, and differences are paired over test searches. The reranker
stands on the parent. "kept" tells what the stage's gate would have said.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_fitting import OPENED
from onevision.generator.modelling import Generator
from onevision.metrics.bootstrap import mean_intervals
from onevision.metrics.ranking import hit_rate, ndcg
from onevision.preference.checks import Validation
from onevision.preference.config import PreferenceConfig
from onevision.preference.levels import gains_of
from onevision.preference.lists import build_lists
from onevision.preference.reference import Reference
from onevision.preference.reranking import fit_on_both
from onevision.preference.slates import Slates, make_slates
from onevision.preference.training import align
from onevision.semantic_ids.catalogue import Catalogue

DPO: dict[str, object] = {"objective": "dpo", "guard_weight": 4.0}
LISTWISE: dict[str, object] = {"objective": "listwise_dpo", "guard_weight": 4.0}
GRPO: dict[str, object] = {"objective": "rank_grpo"}
NO_ANCHOR: dict[str, object] = {"anchor_weight": 0.0}
NO_GUARDS: dict[str, object] = {"guard_weight": 0.0}
VARIANTS: dict[str, dict[str, object]] = {
    "rank_grpo": GRPO,
    "rank_grpo, no anchor": GRPO | NO_ANCHOR,
    "rank_grpo, no visual guard": GRPO | {"visual_guard_margin": 2.0},
    "rank_grpo, no category guard": GRPO | {"category_guard": False},
    "rank_grpo, no guards": GRPO | NO_GUARDS,
    "dpo": DPO,
    "dpo, no anchor": DPO | NO_ANCHOR,
    "dpo, no guards": DPO | NO_GUARDS,
    "listwise_dpo": LISTWISE,
    "listwise_dpo, no guards": LISTWISE | NO_GUARDS,
}
CEILING = "rank_grpo, trained and chosen on the test searches"
"""What is left to gain for the weights that alignment moves: no result, since it has seen the answers."""
VARIANTS[CEILING] = GRPO | NO_GUARDS | NO_ANCHOR | {"beta": 0.05}
RERANKER, RERANKER_CEILING = "reranker", "reranker, the last passes on the test searches"
VARIANTS |= {RERANKER: {}, RERANKER_CEILING: {}}
METRICS = ("order_ndcg@10", "personal_hr@10", "hr@10", "similarity")


@dataclass
class Searches:
    """Searches, what they choose among, and what the parent says of that."""

    queries: QuerySet
    slates: Slates
    reference: Reference

    def values(self, choice: ChoiceModel, catalogue: Catalogue) -> NDArray[np.float64]:
        """What a choice model's scores are worth (`values_of`)."""
        with torch.no_grad():
            return self.values_of(self.slates.scores(choice), catalogue)

    def values_of(self, scores: Tensor, catalogue: Catalogue) -> NDArray[np.float64]:
        """(Q, 4) of METRICS by scores (Q, C), of searches with a click on a known item; personal HR is not a number
        where the search is not personal."""
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :10]
        items = self.slates.items.gather(1, order).numpy()
        number = catalogue.numbers()
        levels = [
            {number[i]: 2.0 if i in ordered else 1.0 for i in (*clicked, *ordered) if i in number}
            for clicked, ordered in zip(self.queries.clicked, self.queries.ordered, strict=True)
        ]
        hits = hit_rate(items, [[number[clicked[0]]] for clicked in self.queries.clicked], 10)
        return np.stack(
            [
                ndcg(items, [list(v) for v in levels], 10, [list(v.values()) for v in levels]),
                np.where(self.queries.personal, hits, np.nan),
                hits,
                np.einsum("qkd,qd->qk", catalogue.embedding[items], self.queries.embedding).mean(1),
            ],
            axis=1,
        )


def stored_searches(run: Path, parent: ChoiceModel, catalogue: Catalogue) -> Searches:
    """The training searches of the run's `align-preferences`."""
    reference = Reference.open(run / "generator_aligned")
    queries = load_queries(run, "train", len(reference.query_id))
    if queries.query_id != reference.query_id:
        raise SystemExit(f"{run}: its aligned generator was made from other searches; run align-preferences again")
    slates = make_slates(parent, queries, catalogue, reference.items, reference.sid_log_p, counted=True)
    return Searches(queries, slates, reference)


def held_out_searches(run: Path, ranker: GeneratorRanker, parent: ChoiceModel, split: str) -> Searches:
    """Searches of a split whose first click is on an item of the catalogue."""
    number = ranker.catalogue.numbers()
    queries = load_queries(run, split)
    queries = queries.take([n for n, clicked in enumerate(queries.clicked) if clicked and clicked[0] in number])
    found = ranker.find(queries, PreferenceConfig().beam_width)
    slates = make_slates(parent, queries, ranker.catalogue, *found, counted=False)
    return Searches(queries, slates, Reference.of(parent, queries.query_id, slates))


def load_queries(run: Path, split: str, limit: int | None = None) -> QuerySet:
    parts = run / "pairs", run / "encoder", run / "features"
    return QuerySet.load(*parts, split=split, limit=limit, clicked_only=False)


Gains = tuple[NDArray[np.float64], NDArray[np.float64], bool]
"""What a variant gains on validation and on test searches (Q, 4), and whether the gate would keep it."""


def measure(run: Path, seed: int, variants: Sequence[str]) -> dict[str, Gains]:
    """By variant."""
    catalogue, parent_path = Catalogue.open(run / "semantic_ids"), run / "generator_sft"
    parent = ChoiceModel.from_pretrained(parent_path, catalogue)
    ranker = GeneratorRanker(Generator.from_pretrained(parent_path).freeze(), catalogue, parent)
    ranker.use_pruning(OPENED)
    train = stored_searches(run, parent, catalogue)
    held_out, test = (held_out_searches(run, ranker, parent, split) for split in ("validation", "test"))
    before = held_out.values(parent, catalogue), test.values(parent, catalogue)
    out = {}
    for name in variants:
        if name in (RERANKER, RERANKER_CEILING):
            learnt = held_out if name == RERANKER else test
            out[name] = measure_reranker(parent, catalogue, train, learnt, (held_out, test), before, seed)
            print(f"{run.name}: {name}: {np.nanmean(out[name][1], axis=0).round(4)}", flush=True)
            continue
        config = PreferenceConfig(**VARIANTS[name])
        learnt, judged = (test, test) if name == CEILING else (train, held_out)
        choice = ChoiceModel.from_pretrained(parent_path, catalogue)
        checkpoints: list[tuple[float, dict[str, torch.Tensor]]] = []

        def validate(
            choice: ChoiceModel = choice, checkpoints: list = checkpoints, judged: Searches = judged
        ) -> Validation:
            order_ndcg, personal, hits, similarity = np.nanmean(judged.values(choice, catalogue), axis=0)
            checkpoints.append((order_ndcg, copy.deepcopy(choice.state_dict())))
            return Validation(hits, order_ndcg, similarity, personal)

        lists = build_lists(learnt.queries, learnt.reference.ranked(), catalogue, config)
        gains = torch.from_numpy(gains_of(learnt.queries, learnt.reference.items, catalogue))
        reference = torch.from_numpy(learnt.reference.log_p)
        _, kept = align(choice, lists, learnt.slates, reference, gains, config, validate, seed)
        choice.load_state_dict(max(checkpoints[1:], key=lambda c: c[0])[1])
        after = held_out.values(choice, catalogue), test.values(choice, catalogue)
        out[name] = (after[0] - before[0], after[1] - before[1], kept is not None)
        print(f"{run.name}: {name}: {np.nanmean(out[name][1], axis=0).round(4)}", flush=True)
    return out


def measure_reranker(
    parent: ChoiceModel,
    catalogue: Catalogue,
    train: Searches,
    learnt: Searches,
    judged: tuple[Searches, Searches],
    before: tuple[NDArray[np.float64], NDArray[np.float64]],
    seed: int,
) -> Gains:
    """A reranker on top of the parent; of the searches that it learnt from, validation ones are cross-fitted."""
    config = PreferenceConfig()
    both = (train.queries, train.slates), (learnt.queries, learnt.slates)
    fitted = fit_on_both(parent, *both, catalogue, config, seed)
    parent.reranker = fitted.reranker
    after = [searches.values(parent, catalogue) for searches in judged]
    parent.reranker = None
    if learnt is judged[0]:
        after[0] = learnt.values_of(fitted.scores, catalogue)
    checks = []
    for values in (before[0], after[0]):
        order_ndcg, personal, hits, similarity = np.nanmean(values, axis=0)
        checks.append(Validation(hits, order_ndcg, similarity, personal))
    return after[0] - before[0], after[1] - before[1], bool(checks[1].wins(checks[0], config))


def interval(differences: Sequence[NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Mean and 95 % interval of every metric over all searches of all runs."""
    values = np.concatenate(differences)
    out = []
    for column, name in enumerate(METRICS):
        there = values[:, column][~np.isnan(values[:, column])]
        found = mean_intervals(there[:, None])[0]
        out.append({"metric": name, "mean": found.mean, "low": found.low, "high": found.high})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    parser.add_argument("--seed", type=int, default=0, help="of the batches and lists that are drawn")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants, by default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = [measure(run, arguments.seed, arguments.only) for run in arguments.runs]
    rows = []
    print(f"\n{'points, test searches':34s} {'kept':>5s} " + " ".join(f"{name:>22s}" for name in METRICS))
    for name in arguments.only:
        found = interval([run[name][1] for run in measured])
        kept = sum(run[name][2] for run in measured)
        cells = [f"{100 * v['mean']:+.2f} [{100 * v['low']:+.2f}, {100 * v['high']:+.2f}]" for v in found]
        print(f"{name:34s} {kept}/{len(measured):<3d} " + " ".join(f"{cell:>22s}" for cell in cells))
        row = {"name": name, "kept": kept, "test": found, "validation": interval([run[name][0] for run in measured])}
        rows.append(row | {"runs": [interval([run[name][1]]) for run in measured]})
    if arguments.json:
        figures = {"runs": [run.name for run in arguments.runs], "seed": arguments.seed, "variants": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
