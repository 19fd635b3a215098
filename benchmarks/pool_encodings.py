"""Encoding reports of several seeds as one table: the mean of the seeds, with the interval of that mean.

python benchmarks/pool_encodings.py REPORT.json [REPORT.json ...]     # written by: onevision encoding-report

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
ALL, AGAINST, KINDS = "Encodings", "VRQ against the others", "View consistency by kind of pair"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of each seed")
    reports = [json.loads(path.read_text()) for path in parser.parse_args().reports]
    seeds = [{table["title"]: table for table in report["tables"]} for report in reports]
    for title in (ALL, AGAINST):
        print(f"\n| {title} | " + " | ".join(FIGURES) + " |\n| --- |" + " --- |" * len(FIGURES))
        columns = seeds[0][title]["columns"]
        for rows in zip(*(seed[title]["rows"] for seed in seeds), strict=True):
            cells = (
                pooled([row[columns.index(figure)] for row in rows], difference=title == AGAINST) for figure in FIGURES
            )
            print(f"| {rows[0][0]} | " + " | ".join(cells) + " |")
    kinds = pooled_kinds(seeds)
    methods = list(next(iter(kinds.values())))
    print(f"\n| VC@1 / VC@2 | {' | '.join(methods)} |\n| --- |" + " --- |" * len(methods))
    for kind, found in kinds.items():
        print(f"| {kind} | " + " | ".join(" / ".join(found[method]["of it"]) for method in methods) + " |")
    others = [method for method in methods if "vrq less it" in found[method]]
    print(f"\n| VRQ less, VC@1 / VC@2 | {' | '.join(others)} |\n| --- |" + " --- |" * len(others))
    for kind, found in kinds.items():
        print(f"| {kind} | " + " | ".join(" / ".join(found[method]["vrq less it"]) for method in others) + " |")


if __name__ == "__main__":
    main()
