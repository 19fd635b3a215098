"""What the codes are worth to the generator: runs with VRQ codes beside runs with residual k-means codes (RQ-OPQ).

python benchmarks/bench_codes.py --vrq RUN [RUN ...] --rq RUN [RUN ...] --json codes.json

A run is a folder of artifacts; the n-th of both sides have one seed, and so the same embeddings and searches. RQ runs
are made with `quantization.view_levels=0`. Generators after SFT, test searches of all runs together, paired.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from held_out import test_searches
from numpy.typing import NDArray

from onevision.decoding.ranker import GeneratorRanker
from onevision.evaluation.comparison import PLACES, measure
from onevision.metrics import mean_interval

WIDTHS = (5, 10, 20, 50, 100)
METRICS = ("hr@1", "hr@10", "hr@50", "mrr@10")


def by_beams(run: Path) -> dict[tuple[int, str], NDArray[np.float64]]:
    """(beams, metric) -> values (Q,) over the test searches of a run."""
    queries, truth = test_searches(run)
    ranker = GeneratorRanker.open(run / "encoder", run / "semantic_ids", run / "generator_sft")
    values: dict[tuple[int, str], NDArray[np.float64]] = {}
    for width in WIDTHS:
        measured = measure(np.asarray(ranker.rank(queries, width, PLACES).items), truth)
        values |= {(width, metric): measured[metric] for metric in METRICS}
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vrq", nargs="+", type=Path, required=True, help="run folders, one a seed")
    parser.add_argument("--rq", nargs="+", type=Path, required=True, help="run folders of the same seeds")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    if len(arguments.vrq) != len(arguments.rq):
        parser.error(f"{len(arguments.vrq)} runs with VRQ codes but {len(arguments.rq)} with RQ codes; give pairs")
    torch.set_num_threads(1)
    sides = [[by_beams(run) for run in runs] for runs in (arguments.vrq, arguments.rq)]
    rows = []
    for width, metric in sides[0][0]:
        vrq, rq = (np.concatenate([run[width, metric] for run in side]) for side in sides)
        less = mean_interval(vrq - rq)
        rows.append({"beams": width, "metric": metric, "vrq": vrq.mean(), "rq": rq.mean()} | vars(less))
        shown = (100 * value for value in (vrq.mean(), rq.mean(), less.mean, less.low, less.high))
        print("{:4d} beams {:7s} {:5.1f} {:5.1f}  {:+.1f} [{:.1f}, {:.1f}]".format(width, metric, *shown), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
