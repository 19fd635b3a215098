"""What each part of the generator is worth: `sft` on runs' artifacts with one override at a time.

python benchmarks/bench_ablations.py RUN [RUN ...] --seeds 7 [8 ...] --out DIR [--rq RUN ...] [--km RUN ...]

"Everything" is the runs' own generator after SFT; every other row is a training of its own for each run, with all items
written out (no pruning), measured on the test searches of all runs together. The difference to "everything" is paired.
What is in DIR already is not trained again.
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

ROWS: dict[str, list[str]] = {
    "no stage P": ["generator.steps_visual=0"],
    "no stage S1": ["generator.steps_cooccurrence=0"],
    "no replay": ["generator.replay_share=0"],
    "no query SID": ["generator.own_id=false"],
    "one pooled image token": ["generator.patch_tokens=false"],
    "no history": ["generator.shopper=false"],
    "taste does not guide the beams": ["generator.guidance=[0.0]"],
}
RQ_OPQ, RQ_KMEANS = "residual k-means codes (RQ-OPQ)", "residual k-means codes (RQ-KMeans, without OPQ)"
INPUTS = ("snapshot", "pairs", "encoder", "quantizer", "semantic_ids", "features")
METRICS = ("hr@1", "hr@10", "hr@50", "mrr@10")
BEAMS = 100


def trained(run: Path, out: Path, overrides: list[str]) -> Path:
    """The generator of a run's artifacts with these overrides, in `out`."""
    if not (out / "manifest.json").exists():
        inputs = {name: (run / name).resolve() for name in INPUTS}
        run_stage("sft", inputs, out, recipe="quickstart", overrides=overrides)
    return out


def values(runs: list[Path], generators: list[Path]) -> dict[str, NDArray[np.float64]]:
    """Metrics (Q,) of the test searches of all runs, and HR@10 of the personal ones."""
    parts = []
    for run, generator in zip(runs, generators, strict=True):
        queries, truth = test_searches(run)
        ranking = GeneratorRanker.open(run / "encoder", run / "semantic_ids", generator).rank(queries, BEAMS, PLACES)
        measured = measure(np.asarray(ranking.items), truth)
        parts.append({m: measured[m] for m in METRICS} | {"hr@10, personal": measured["hr@10"][queries.personal]})
    return {m: np.concatenate([part[m] for part in parts]) for m in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of quickstart")
    parser.add_argument("--seeds", nargs="+", type=int, required=True, help="theirs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained generators and the figures")
    parser.add_argument("--rq", nargs="+", type=Path, help="runs of the same seeds, quantization.view_levels=0")
    parser.add_argument("--km", nargs="+", type=Path, help="the same with quantization.opq_subspaces=0 too")
    arguments = parser.parse_args()
    runs: list[Path] = arguments.runs
    codes = {RQ_OPQ: arguments.rq, RQ_KMEANS: arguments.km}
    if any(given is not None and len(given) != len(runs) for given in (arguments.seeds, *codes.values())):
        parser.error(f"{len(runs)} runs; give as many seeds, and as many runs with other codes")
    torch.set_num_threads(1)
    figures: dict[str, dict[str, object]] = {}

    def tell(name: str, found: dict[str, NDArray[np.float64]]) -> None:
        less = {m: mean_interval(found[m] - everything[m]) for m in found}
        figures[name] = {m: {"mean": found[m].mean(), "less_everything": vars(less[m])} for m in found}
        cells = (f"{100 * found[m].mean():5.1f} {100 * less[m].mean:+5.1f}" for m in found)
        print(f"{name:32}" + "  ".join(cells), flush=True)
        (arguments.out / "ablations.json").write_text(json.dumps(figures, indent=1) + "\n")

    arguments.out.mkdir(parents=True, exist_ok=True)
    everything = values(runs, [run / "generator_sft" for run in runs])
    tell("everything", everything)
    for number, (name, overrides) in enumerate(ROWS.items()):
        generators = [
            trained(run, arguments.out / f"{number}-{seed}", [*overrides, f"seed={seed}"])
            for run, seed in zip(runs, arguments.seeds, strict=True)
        ]
        tell(name, values(runs, generators))
    for name, others in codes.items():
        if others is not None:
            tell(name, values(others, [run / "generator_sft" for run in others]))


if __name__ == "__main__":
    main()
