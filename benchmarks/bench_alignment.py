"""Objectives of preference alignment side by side: each against the same SFT parent, on test searches.

python benchmarks/bench_alignment.py runs/latest [more runs, such as other seeds] --json alignment.json

What the parent's beams find is found once; objectives reorder it. Every objective is trained with the defaults of its
recipe section but for what its name says, its checkpoint is chosen by order-weighted NDCG@10 on validation searches,
and differences are paired over test searches. "kept" tells what the stage's gate would have said.
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

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_fitting import OPENED
from onevision.generator.modelling import Generator
from onevision.metrics.bootstrap import mean_intervals
from onevision.metrics.ranking import hit_rate, ndcg
from onevision.preference.checks import Validation
from onevision.preference.config import PreferenceConfig
from onevision.preference.lists import build_lists, gains_of
from onevision.preference.slates import Slates, make_slates
from onevision.preference.training import align
from onevision.semantic_ids.catalogue import Catalogue

GRPO = {"objective": "rank_grpo", "beta": 0.05}
VARIANTS: dict[str, dict[str, object]] = {
    "dpo": {"objective": "dpo"},
    "dpo, no anchor": {"objective": "dpo", "anchor_weight": 0.0},
    "listwise_dpo": {"objective": "listwise_dpo"},
    "listwise_dpo, no anchor": {"objective": "listwise_dpo", "anchor_weight": 0.0},
    "listwise_dpo, no visual guard": {"objective": "listwise_dpo", "visual_guard_cosine": -1.0},
    "listwise_dpo, no category guard": {"objective": "listwise_dpo", "category_guard": False},
    "rank_grpo": GRPO,
    "rank_grpo, no anchor": GRPO | {"anchor_weight": 0.0},
}
CEILING = "rank_grpo, trained and chosen on the test searches"
"""What is left to gain for the weights that alignment moves: no result, since it has seen the answers."""
VARIANTS[CEILING] = GRPO | {"anchor_weight": 0.0}
METRICS = ("order_ndcg@10", "personal_hr@10", "hr@10", "similarity")


@dataclass
class Searches:
    """Searches with a click on a known item, and what they choose among."""

    queries: QuerySet
    slates: Slates
    gains: NDArray[np.float32]
    first: list[list[int]]

    def values(self, choice: ChoiceModel, catalogue: Catalogue) -> NDArray[np.float64]:
        """(Q, 4) of METRICS; personal HR is not a number where the search is not personal."""
        with torch.no_grad():
            order = self.slates.scores(choice).argsort(dim=1, descending=True, stable=True)[:, :10]
        items = self.slates.items.gather(1, order).numpy()
        number = catalogue.numbers()
        levels = [
            {number[i]: 2.0 if i in ordered else 1.0 for i in (*clicked, *ordered) if i in number}
            for clicked, ordered in zip(self.queries.clicked, self.queries.ordered, strict=True)
        ]
        hits = hit_rate(items, self.first, 10)
        return np.stack(
            [
                ndcg(items, [list(v) for v in levels], 10, [list(v.values()) for v in levels]),
                np.where(self.queries.personal, hits, np.nan),
                hits,
                np.einsum("qkd,qd->qk", catalogue.embedding[items], self.queries.embedding).mean(1),
            ],
            axis=1,
        )


def open_searches(
    run: Path, ranker: GeneratorRanker, choice: ChoiceModel, split: str, config: PreferenceConfig
) -> Searches:
    limit = config.queries if split == "train" else None
    catalogue = ranker.catalogue
    number = catalogue.numbers()
    queries = QuerySet.load(run / "pairs", run / "encoder", run / "features", split=split, limit=limit)
    queries = queries.take([n for n, clicked in enumerate(queries.clicked) if clicked[0] in number])
    found, log_p = ranker.find(queries, config.beam_width)
    slates = make_slates(choice, queries, catalogue, found, log_p, counted=split == "train")
    first = [[number[clicked[0]]] for clicked in queries.clicked]
    return Searches(queries, slates, gains_of(queries, slates.items.numpy(), catalogue), first)


def measure(
    run: Path, parent_path: Path, seed: int
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64], bool]]:
    """By variant: what it gains on validation and on test searches (Q, 4), and whether the gate would keep it."""
    catalogue = Catalogue.open(run / "semantic_ids")
    parent = ChoiceModel.from_pretrained(parent_path, catalogue)
    ranker = GeneratorRanker(Generator.from_pretrained(parent_path).freeze(), catalogue, parent)
    ranker.use_pruning(OPENED)
    splits = ("train", "validation", "test")
    train, held_out, test = (open_searches(run, ranker, parent, split, PreferenceConfig()) for split in splits)
    before = held_out.values(parent, catalogue), test.values(parent, catalogue)
    out = {}
    for name, changes in VARIANTS.items():
        config = PreferenceConfig(**changes)
        learnt, judged = (test, test) if name == CEILING else (train, held_out)
        choice = ChoiceModel.from_pretrained(parent_path, catalogue)
        checkpoints: list[tuple[float, dict[str, torch.Tensor]]] = []

        def validate(
            choice: ChoiceModel = choice, checkpoints: list = checkpoints, judged: Searches = judged
        ) -> Validation:
            order_ndcg, personal, hits, similarity = np.nanmean(judged.values(choice, catalogue), axis=0)
            checkpoints.append((order_ndcg, copy.deepcopy(choice.state_dict())))
            return Validation(hits, order_ndcg, similarity, personal)

        with torch.no_grad():
            order = learnt.slates.scores(parent).argsort(dim=1, descending=True, stable=True)
        lists = build_lists(learnt.queries, learnt.slates.items.gather(1, order).numpy(), catalogue, config)
        _, kept = align(choice, lists, learnt.slates, torch.from_numpy(learnt.gains), config, validate, seed)
        choice.load_state_dict(max(checkpoints[1:], key=lambda c: c[0])[1])
        after = held_out.values(choice, catalogue), test.values(choice, catalogue)
        out[name] = (after[0] - before[0], after[1] - before[1], kept is not None)
        print(f"{run.name}: {name}: {np.nanmean(out[name][1], axis=0).round(4)}", flush=True)
    return out


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
    parser.add_argument(
        "--generators", nargs="+", type=Path, help="SFT generators, one a run; by default the runs' own"
    )
    parser.add_argument("--json", type=Path, help="also write all figures there")
    parser.add_argument("--seed", type=int, default=0, help="of the batches and lists that are drawn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parents = arguments.generators or [run / "generator_sft" for run in arguments.runs]
    measured = [measure(*each, arguments.seed) for each in zip(arguments.runs, parents, strict=True)]
    rows = []
    print(f"\n{'points, test searches':34s} {'kept':>5s} " + " ".join(f"{name:>22s}" for name in METRICS))
    for name in VARIANTS:
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
