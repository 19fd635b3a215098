"""How far are guided beams from asking every item of the shop?

python benchmarks/bench_guidance.py RUN [--queries 600] [--json FILE]

RUN is a run of full training. Percent of its newest held-out searches whose first clicked item is among the 1, 10, 50
and 350 that the choice model puts first: of what 100 beams find without a guide, guided by taste, and by taste and by
what looks like what was photographed, branches that hold up to 800 items opened; and of all items.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.choice import FEATURES
from onevision.generator.token_pruning import PruningSetting
from onevision.metrics.ranking import hit_rate

BEAMS = 100
OPEN_BELOW = 800
CUTOFFS = (1, 10, 50, 350)
SEARCHES_AT_ONCE = 8


def less_guided(ranker: GeneratorRanker, queries: QuerySet, guidance: float) -> NDArray[np.int64]:
    """(Q, 350) items that beams found without looks and with as much taste, in the order of the whole choice model."""
    choice = ranker.choice
    assert choice is not None
    usual, weights = choice.guidance, choice.weights.clone()
    choice.guidance = guidance
    choice.weights[:, FEATURES.index("alike")] = 0.0
    found, log_p = ranker.find(queries, BEAMS)
    choice.guidance = usual
    choice.weights.copy_(weights)
    return ordered(ranker, queries, found, log_p)


def ordered(
    ranker: GeneratorRanker, queries: QuerySet, items: NDArray[np.int64], log_p: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Items (Q, C) in the order of the choice model, (Q, 350)."""
    choice = ranker.choice
    assert choice is not None
    width = max(CUTOFFS[-1] - items.shape[1], 0)
    items, log_p = np.pad(items, ((0, 0), (0, width)), constant_values=-1), np.pad(log_p, ((0, 0), (0, width)))
    parts = []
    for rows in np.array_split(np.arange(len(queries)), len(queries) // SEARCHES_AT_ONCE + 1):
        scores = choice.score(
            choice.read(queries.take(rows)), torch.from_numpy(items[rows]), torch.from_numpy(log_p[rows])
        )
        order = scores.topk(CUTOFFS[-1], dim=1).indices.numpy()
        parts.append(np.take_along_axis(items[rows], order, axis=1))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    run = arguments.run
    ranker = GeneratorRanker.open(run / "encoder", run / "semantic_ids", run / "generator_aligned")
    assert ranker.choice is not None
    ranker.use_pruning(PruningSetting(open_below=OPEN_BELOW))
    queries = QuerySet.load(run / "pairs", run / "encoder", run / "features", split="test")
    number = ranker.catalogue.numbers()
    queries = queries.take(np.flatnonzero([c[0] in number for c in queries.clicked])[-arguments.queries :])
    first = [[number[clicked[0]]] for clicked in queries.clicked]
    everything = np.broadcast_to(np.arange(len(number)), (len(queries), len(number)))
    rankings = {
        "beams without a guide": less_guided(ranker, queries, 0.0),
        "guided by taste": less_guided(ranker, queries, ranker.choice.guidance),
        "guided by taste and look": ordered(ranker, queries, *ranker.find(queries, BEAMS)),
        "every item asked": ordered(ranker, queries, everything, np.zeros(everything.shape, np.float32)),
    }
    figures = {}
    for name, items in rankings.items():
        figures[name] = {k: 100 * float(hit_rate(items, first, k).mean()) for k in CUTOFFS}
        print(f"{name:28}" + "".join(f"{share:7.1f}" for share in figures[name].values()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
