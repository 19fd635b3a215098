"""What is lost where a photo is looked at further only if its first look leaves a doubt, and what says so best?

python benchmarks/bench_second_look.py RUN [RUN ...] [--shares 0.1 0.25 0.5 0.75] [--queries 2000] [--json FILE]

RUN is a run of full training, searched by the pruning setting that it serves. Points that HR@10, HR@50 and MRR@10 fall
by, less two looks at every photo, paired over the searches of all runs, with 95 % intervals; by what the doubt is read
from and the share of photos that are looked at further: those of the validation days, whose thresholds the test days
take. `nearby` is what `calibrate-pruning` sweeps; `nearest item` compares with the whole catalogue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.model import Encoder
from onevision.features.queries import QuerySet
from onevision.metrics import hit_rate, mean_interval, mrr
from onevision.pruning.calibration import BEAMS
from onevision.pruning.photos import ONE_LOOK, PhotoEncoder, Photos

METRICS: dict[str, Callable[[NDArray[np.int64], list[list[int]]], NDArray[np.float64]]] = {
    "HR@10": lambda items, answer: hit_rate(items, answer, 10),
    "HR@50": lambda items, answer: hit_rate(items, answer, 50),
    "MRR@10": lambda items, answer: mrr(items, answer, 10),
}
SAMPLES = 1000


@dataclass
class Looks:
    """Searches of one run and split: what doubts say of first looks, (Q,) each, and metrics (Q,) after one and all
    looks."""

    doubts: dict[str, NDArray[np.floating]]
    one: dict[str, NDArray[np.float64]]
    full: dict[str, NDArray[np.float64]]


def look(run: Path, split: str, limit: int) -> Looks:
    """Search with one and with all looks at the photos of a split."""
    ranker = GeneratorRanker.open(*(run / part for part in ("encoder", "semantic_ids", "generator_aligned", "pruning")))
    queries = QuerySet.load(run / "pairs", run / "encoder", run / "features", split=split, limit=limit)
    number = ranker.catalogue.numbers()
    queries = queries.take(np.flatnonzero([clicked[0] in number for clicked in queries.clicked]))
    answer = [[number[clicked[0]]] for clicked in queries.clicked]
    eye = PhotoEncoder.of(Encoder.from_pretrained(run / "encoder").freeze(), ranker)
    once, _ = Photos(eye, Snapshot.open(run / "snapshot", verify=False).images).look(queries, ONE_LOOK)
    e, quantizer = once.embedding, ranker.model.quantizer
    doubts = {
        "nearby": -eye.nearby.similarity(e),
        "nearest item": -(e @ ranker.catalogue.embedding.T).max(1),
        "reconstruction error": np.linalg.norm(e - quantizer.decode(quantizer.encode(e)), axis=1),
        "category": -once.category.astype(np.float32).max(1),
        "random": np.random.default_rng(0).random(len(e)),
    }
    one, full = (ranker.rank(asked, BEAMS, 50).items for asked in (once, queries))
    return Looks(doubts, *({name: metric(items, answer) for name, metric in METRICS.items()} for items in (one, full)))


def lost(looks: list[Looks], thresholds: list[float], doubt: str) -> dict[str, list[float]]:
    """Mean, lower and upper bound of each metric's difference to all looks, in points and pooled over runs; its mean in
    each run; and the share of photos that were looked at further."""
    again = [run.doubts[doubt] > threshold for run, threshold in zip(looks, thresholds, strict=True)]
    out = {"looked at further": [100 * float(np.concatenate(again).mean())]}
    for name in METRICS:
        differences = [
            np.where(more, run.full[name], run.one[name]) - run.full[name]
            for run, more in zip(looks, again, strict=True)
        ]
        interval = mean_interval(np.concatenate(differences), SAMPLES, 0)
        out[name] = [100 * value for value in (interval.mean, interval.low, interval.high)]
        out[f"{name} by run"] = [100 * float(difference.mean()) for difference in differences]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    by_split = {
        split: [look(run, split, arguments.queries) for run in arguments.runs] for split in ("validation", "test")
    }
    figures: dict[str, dict[str, dict[str, list[float]]]] = {split: {} for split in by_split}
    for doubt in by_split["validation"][0].doubts:
        for share in (0.0, *arguments.shares):
            thresholds = [
                float(np.quantile(run.doubts[doubt], 1 - share)) if share else np.inf for run in by_split["validation"]
            ]
            for split, looks in by_split.items():
                found = figures[split][f"{doubt} {share:g}"] = lost(looks, thresholds, doubt)
                cells = [f"{found[name][0]:+6.2f} [{found[name][1]:+.2f}, {found[name][2]:+.2f}]" for name in METRICS]
                runs = "/".join(f"{value:+.1f}" for value in found["HR@10 by run"])
                print(
                    f"{split:10} {doubt:20} {found['looked at further'][0]:5.1f} %", *cells, runs, sep="  ", flush=True
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
