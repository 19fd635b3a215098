"""What each part of the generator is worth: `sft` on a run's artifacts with one override at a time.

python benchmarks/bench_ablations.py RUN --out DIR [--seed 7] [--rq RUN_WITH_RQ_CODES]

Every row is a training of its own, with all items written out (no pruning), measured on the test searches beside the
run's own; the difference to "everything" is paired. What is in DIR already is not trained again.
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
from onevision.runner import run_stage

EVERYTHING, RQ_CODES = "everything", "residual k-means codes (RQ-OPQ)"
ROWS: dict[str, list[str]] = {
    EVERYTHING: [],
    "no stage P": ["generator.steps_visual=0"],
    "no stage S1": ["generator.steps_cooccurrence=0"],
    "no replay": ["generator.replay_share=0"],
    "no query SID": ["generator.own_id=false"],
    "one pooled image token": ["generator.patch_tokens=false"],
    "no history": ["generator.shopper=false"],
    "taste does not guide the beams": ["generator.guidance=[0.0]"],
}
INPUTS = ("snapshot", "pairs", "encoder", "quantizer", "semantic_ids", "features")
METRICS = ("hr@1", "hr@10", "hr@50", "mrr@10")
BEAMS = 100


def trained(run: Path, out: Path, overrides: list[str]) -> Path:
    """The generator of a run's artifacts with these overrides, in `out`."""
    if not (out / "manifest.json").exists():
        inputs = {name: (run / name).resolve() for name in INPUTS}
        run_stage("sft", inputs, out, recipe="quickstart", overrides=overrides)
    return out


def values(run: Path, generator: Path) -> dict[str, NDArray[np.float64]]:
    """Metrics (Q,) of the test searches, and HR@10 of the personal ones."""
    queries, truth = test_searches(run)
    ranking = GeneratorRanker.open(run / "encoder", run / "semantic_ids", generator).rank(queries, BEAMS, PLACES)
    measured = measure(np.asarray(ranking.items), truth)
    return {m: measured[m] for m in METRICS} | {"hr@10, personal": measured["hr@10"][queries.personal]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of quickstart")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained generators")
    parser.add_argument("--seed", type=int, default=7, help="the run's")
    parser.add_argument(
        "--rq", type=Path, help="run of the same seed with quantization.view_levels=0, up to assign-ids"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [(name, arguments.run, overrides) for name, overrides in ROWS.items()]
    if arguments.rq:
        rows.append((RQ_CODES, arguments.rq, []))
    everything: dict[str, NDArray[np.float64]] = {}
    figures = {}
    for number, (name, run, overrides) in enumerate(rows):
        out = arguments.out / f"{number}"
        found = values(run, trained(run, out, [*overrides, f"seed={arguments.seed}"]))
        everything = everything or found
        less = {m: mean_interval(found[m] - everything[m]) for m in found}
        figures[name] = {m: {"mean": found[m].mean(), "less_everything": vars(less[m])} for m in found}
        cells = (f"{100 * found[m].mean():5.1f} {100 * less[m].mean:+5.1f}" for m in found)
        print(f"{name:32}" + "  ".join(cells), flush=True)
        (arguments.out / "ablations.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
