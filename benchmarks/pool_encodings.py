"""Encoding reports of several seeds as one table: the mean of the seeds, with the interval of that mean.

python benchmarks/pool_encodings.py REPORT.json [REPORT.json ...]     # written by: onevision encoding-report --run RUN

With reports of `--ablations` the parts of VRQ have tables of their own.

Seeds are independent, so that the distances from the mean to its bounds add up like deviations.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

FIGURES = ("icr", "vc@1", "vc@2", "r@1", "r@10")
ALL, AGAINST = "Encodings", "VRQ against the others"
IN_USE = "perplexity of levels 1 / 2 / 3; of the first two codes"
KINDS = "View consistency by kind of pair"
CELL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")


def read(cell: str) -> tuple[float, float, float]:
    """Mean and bounds of a cell like `77.5 [74.2, 80.4] *`."""
    found = CELL.match(cell)
    if found is None:
        raise ValueError(f"{cell!r} is no mean with its interval")
    mean, low, high = map(float, found.groups())
    return mean, low, high


def pooled(cells: list[str], *, difference: bool) -> str:
    """The mean of the seeds and its interval; of a difference with a star where the interval excludes 0."""
    seeds = [read(cell) for cell in cells]
    mean = sum(seed[0] for seed in seeds) / len(seeds)
    low = mean - math.hypot(*(seed[0] - seed[1] for seed in seeds)) / len(seeds)
    high = mean + math.hypot(*(seed[2] - seed[0] for seed in seeds)) / len(seeds)
    star = " *" if difference and (low > 0 or high < 0) else ""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]{star}"


def pooled_kinds(seeds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Kind of pair -> method -> cells of VC@1 and VC@2, of the method itself and of VRQ less it; of all seeds."""
    rows = [{(row[0], row[2]): row[3:7] for row in seed[KINDS]["rows"]} for seed in seeds]
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for kind, method in rows[0]:
        first, lead_first, second, lead_second = zip(*(seed[kind, method] for seed in rows), strict=True)
        cells = {"of it": [pooled(list(level), difference=False) for level in (first, second)]}
        if any(lead_first):  # VRQ has no lead of itself
            cells["vrq less it"] = [pooled(list(level), difference=True) for level in (lead_first, lead_second)]
        found.setdefault(kind, {})[method] = cells
    return found


def pooled_rows(seeds: list[dict[str, dict[str, Any]]], title: str) -> dict[str, dict[str, str]]:
    """Method -> figure -> pooled cell of a table; of VRQ against the others, the other's name -> the difference."""
    columns = seeds[0][title]["columns"]
    by_seed = [{row[0].removeprefix("vrq - "): row for row in seed[title]["rows"]} for seed in seeds]
    return {
        method: {
            figure: pooled([rows[method][columns.index(figure)] for rows in by_seed], difference=title == AGAINST)
            for figure in FIGURES
        }
        for method in by_seed[0]
    }


def pooled_perplexity(reports: list[dict[str, Any]]) -> dict[str, str]:
    """Method -> the mean of the seeds' perplexities of its first three levels, and of its first two codes together,
    such as `55.4 / 24.0 / 122; 612`."""
    metrics = [report["metrics"] for report in reports]

    def mean(name: str) -> str:
        return f"{sum(of_seed[name] for of_seed in metrics) / len(metrics):.3g}"

    return {
        method: " / ".join(mean(f"{method}/perplexity@{level}") for level in (1, 2, 3))
        + f"; {mean(f'{method}/prefix_perplexity@2')}"
        for method in (name.removesuffix("/icr") for name in metrics[0] if name.endswith("/icr"))
    }


def print_table(first: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    """A Markdown table."""
    print(f"\n| {first} | {' | '.join(columns)} |\n| --- |" + " --- |" * len(columns))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of each seed")
    parser.add_argument("--json", type=Path, help="file whose entry NAME is written: figures of all seeds and pooled")
    parser.add_argument("--name", default="quickstart", help="of these reports in that file")
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in arguments.reports]
    seeds = [{table["title"]: table for table in report["tables"]} for report in reports]
    own, against = pooled_rows(seeds, ALL), pooled_rows(seeds, AGAINST)
    perplexity, kinds = pooled_perplexity(reports), pooled_kinds(seeds) if KINDS in seeds[0] else {}
    parts = [method for method in own if method.startswith("vrq_")]
    peers = [method for method in own if method not in parts]
    others = [method for method in peers if method != "vrq"]

    rows = {method: [*own[method].values(), perplexity[method]] for method in peers}
    print_table("method", [*FIGURES, IN_USE], rows)
    print_table("VRQ less", list(FIGURES), {method: list(against[method].values()) for method in others})
    for title, methods, which in (("VC@1 / VC@2", peers, "of it"), ("VRQ less, VC@1 / VC@2", others, "vrq less it")):
        rows = {kind: [" / ".join(found[method][which]) for method in methods] for kind, found in kinds.items()}
        if rows:
            print_table(title, methods, rows)
    if parts:
        rows = {method: [*own[method].values(), perplexity[method]] for method in ("vrq", *parts)}
        print_table("parts of VRQ", [*FIGURES, IN_USE], rows)
        print_table("VRQ less", list(FIGURES), {method: list(against[method].values()) for method in parts})
    if arguments.json:
        file = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        file[arguments.name] = {
            "seeds": [{name: round(value, 5) for name, value in report["metrics"].items()} for report in reports],
            "fits": reports[0]["counts"]["fits"],
            "pooled": {"encodings": own, "vrq less": against, "perplexity": perplexity, "by kind": kinds},
        }
        arguments.json.write_text(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    main()
