"""Runs of one recipe with several seeds as the tables of docs/results: mean and standard deviation of the seeds, and
figures seed by seed.

python benchmarks/pool_runs.py RUN [RUN ...] --seeds 7 [8 ...] --json quickstart.json     # takes the runs' reports
python benchmarks/pool_runs.py --json docs/results/quickstart.json                         # shows what the file has

Rates are percent, differences points with their 95 % interval, with a star where it excludes 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

Figures = dict[str, float]
"""`<stage>/<metric>` of one run; those of `evaluate` without its name."""

STAGES = {
    "align": "encoder",
    "train-vrq": "quantizer",
    "assign-ids": "semantic_ids",
    "sft": "generator_sft",
    "align-preferences": "generator_aligned",
    "calibrate-pruning": "pruning",
    "evaluate": "evaluation",
}
"""Stage -> the folder of a run with its report."""
SYSTEMS = {
    "dense": "dense neighbours",
    "cascade": "cascade (dense recall + LambdaRank)",
    "generator_sft": "generator, after SFT",
    "generator_aligned": "generator, aligned, not pruned",
    "generator_shuffled_history": "generator, aligned, not pruned, with strangers' histories",
    "generator_pruned": "generator, as served (aligned, pruned)",
    "oracle_visual": "*ceiling: true look, no taste*",
    "oracle_with_taste": "*ceiling: true look and taste*",
}
METRICS = {
    "hr@1": "HR@1",
    "hr@10": "HR@10",
    "hr@50": "HR@50",
    "hr@350": "HR@350",
    "mrr@10": "MRR@10",
    "ndcg@10": "NDCG@10",
    "hr@10/personal": "HR@10, personal",
    "hr@10/cold_item": "HR@10, cold items",
    "hr@10/warm_item": "HR@10, warm items",
}
CLICKED = {
    "head": "head: the most clicked, half of the training clicks",
    "tail": "tail: all others that are not new",
    "cold_item": "a new item was photographed",
    "personal": "another item than the photographed one",
}
ON_CLICKED = ("hr@1", "hr@10", "hr@50", "mrr@10", "ndcg@10")
DIFFERENCES = {
    "generator_pruned_minus_cascade": "as served less cascade",
    "generator_pruned_minus_dense": "as served less dense",
    "generator_pruned_minus_generator_aligned": "pruned less not pruned",
    "generator_aligned_minus_generator_sft": "aligned less SFT",
    "generator_aligned_minus_generator_shuffled_history": "own history less a stranger's",
}
COMPARED = ("hr@1", "hr@10", "hr@50", "hr@350", "mrr@10", "order_ndcg@10", "hr@10/personal", "hr@10/cold_item")
BY_SEED = {
    "What the embedding finds": {
        "align/cold_r@1": "cold photo to catalogue, R@1",
        "align/cold_r@10": "cold photo to catalogue, R@10",
        "align/test/clicked_r@10": "clicked item among the 10 nearest to the photo",
        "align/test/clicked_r@50": "clicked item among the 50 nearest",
        "align/test/family_r@10": "look-alikes among the 10 nearest",
    },
    "Semantic IDs": {
        f"train-vrq/{method}/{metric}": f"{name}: {label}"
        for metric, label in (
            ("vc@1", "VC@1, all photos"),
            ("vc@2", "VC@2, all photos"),
            ("cold_vc@1", "VC@1, cold items"),
            ("cold_vc@2", "VC@2, cold items"),
            ("icr", "ICR"),
            ("cur@1", "CUR@1"),
        )
        for method, name in (("vrq", "VRQ"), ("rq_kmeans", "RQ-OPQ"))
    },
    "New items and new users": {
        f"{system}/{metric}/{kind}": f"{name} {METRICS[metric]}, {kind.replace('_', ' ')}s"
        for metric in ("hr@10", "mrr@10")
        for kind in ("cold_item", "warm_item", "cold_user")
        for system, name in (("generator_pruned", "as served"), ("cascade", "cascade"), ("dense", "dense"))
    },
    "What is served": {
        "calibrate-pruning/mflops_saved_share": "FLOPs of generator and choice saved by pruning",
        "generator_pruned/invalid_rate": "invalid rate",
    },
}


def read(run: Path) -> dict[str, Figures]:
    """Stage -> metrics of a run, to five digits."""
    reports = {stage: json.loads((run / folder / "report.json").read_text()) for stage, folder in STAGES.items()}
    return {
        stage: {name: round(value, 5) for name, value in report["metrics"].items()} for stage, report in reports.items()
    }


def flat(stages: dict[str, Figures]) -> Figures:
    """Metrics of all stages in one, by `<stage>/<metric>`; those of `evaluate` by their own names."""
    return {
        key if stage == "evaluate" else f"{stage}/{key}": value
        for stage, metrics in stages.items()
        for key, value in metrics.items()
    }


def tables(seeds: dict[str, Figures]) -> list[str]:
    """The tables (Markdown) of runs by seed."""
    runs, columns = list(seeds.values()), [f"seed {seed}" for seed in seeds]
    differences = {
        f"{name}, {key}": [interval(run, f"{difference}/{key}") for run in runs]
        for difference, name in DIFFERENCES.items()
        for key in COMPARED
        if f"{difference}/{key}/low" in runs[0]  # slices are compared with the cascade alone
    }
    return [
        systems(runs, METRICS),
        table(["clicked item", "searches", *(METRICS[metric] for metric in ON_CLICKED)], clicked(runs)),
        table(["difference, points", *columns], differences),
        *(
            table([title, *columns], {name: [percent(run[key]) for run in runs] for key, name in rows.items()})
            for title, rows in BY_SEED.items()
        ),
    ]


def systems(runs: list[Figures], metrics: dict[str, str]) -> str:
    """All systems by these metrics, mean and standard deviation of the runs."""
    rows = {
        name: [spread([run[key] for run in runs if (key := f"{system}/{metric}") in run]) for metric in metrics]
        for system, name in SYSTEMS.items()
    }
    return table(["system", *metrics.values()], rows)


def clicked(runs: list[Figures]) -> dict[str, list[str]]:
    """What was clicked -> searches, and each metric of the cascade and of the generator as served: mean of the runs."""
    rows = {}
    for kind, name in CLICKED.items():
        searches = sum(int(run[f"queries/{kind}"]) for run in runs)
        means = [
            [statistics.mean(run[f"{system}/{m}/{kind}"] for run in runs) for system in ("cascade", "generator_pruned")]
            for m in ON_CLICKED
        ]
        rows[name] = [str(searches), *(", ".join(map(percent, pair)) for pair in means)]
    return rows


def percent(share: float) -> str:
    """A share as percent."""
    return f"{100 * share:.1f}"


def spread(shares: list[float]) -> str:
    """Mean ± standard deviation; empty where there are none."""
    mean = percent(statistics.mean(shares)) if shares else ""
    return f"{mean} ± {percent(statistics.stdev(shares))}" if len(shares) > 1 else mean


def interval(run: Figures, key: str) -> str:
    """A difference with its interval."""
    mean, low, high = (100 * run[key + bound] for bound in ("", "/low", "/high"))
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]" + (" *" if low > 0 or high < 0 else "")


def table(columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table of the rows by their first cell."""
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    parser.add_argument("--seeds", nargs="*", default=[], help="theirs; others in the file stay")
    parser.add_argument("--json", type=Path, required=True, help="the figures of all seeds")
    arguments = parser.parse_args()
    if len(arguments.runs) != len(arguments.seeds):
        parser.error(f"{len(arguments.runs)} runs but {len(arguments.seeds)} seeds; give one for each")
    file: dict[str, dict[str, Figures]] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    file |= {seed: read(run) for seed, run in zip(arguments.seeds, arguments.runs, strict=True)}
    if arguments.runs:
        arguments.json.write_text(json.dumps(file, indent=1) + "\n")
    print("\n\n".join(tables({seed: flat(stages) for seed, stages in file.items()})))


if __name__ == "__main__":
    main()
