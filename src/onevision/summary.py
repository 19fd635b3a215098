"""What the terminal shows at the end of a run: the stages, and how the systems compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rich import box
from rich.table import Table

from onevision.artifacts import Artifact
from onevision.publishing.headline import METRICS, read_headline
from onevision.report import ReportTable, StageReport

HEADLINE = tuple(
    f"{system}/{metric}" for system in ("dense", "cascade", "generator_*") for metric in ("hr@10", "mrr@10")
)


def stage_table(reports: Sequence[StageReport]) -> Table:
    """Seconds, memory and warnings of every stage; reused stages count nothing towards the total."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    spent = sum(report.seconds for report in reports if not report.reused)
    peak = max((report.peak_memory_mb for report in reports), default=0.0)
    table.add_column("stage", footer="total", no_wrap=True)
    table.add_column("seconds", footer=f"{spent:.1f}", justify="right", no_wrap=True)
    table.add_column("MB", footer=f"{peak:,.0f}", justify="right", no_wrap=True)
    table.add_column("warnings")
    for report in reports:
        seconds = "reused" if report.reused else f"{report.seconds:.1f}"
        table.add_row(report.stage, seconds, f"{report.peak_memory_mb:,.0f}", "\n".join(report.warnings))
    return table


def report_tables(report: StageReport) -> list[Table]:
    """The tables of a report that have rows."""
    return [table_of(table) for table in report.tables if table.rows]


def table_of(source: ReportTable) -> Table:
    """A table of a report, for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, title=source.title, title_justify="left", caption=source.caption or None)
    for number, column in enumerate(source.columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in source.rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def systems_table(evaluation: Artifact) -> Table:
    """Every system on the same held-out queries, in percent."""
    headline = read_headline(evaluation)
    table = Table(box=box.SIMPLE_HEAD, title=f"{headline.queries:,} held-out queries, percent", title_justify="left")
    table.add_column("system", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    for system in headline.systems:
        table.add_row(system.system.replace("_", " "), *(f"{100 * i.mean:.1f}" for i in system.intervals))
    return table


def comparison_table(before: Mapping[str, float], after: Mapping[str, float], patterns: Sequence[str]) -> Table:
    """Metrics of two runs whose names match a pattern (`*` stands for anything), and their difference."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", overflow="fold")
    for heading in ("before", "after", "difference"):
        table.add_column(heading, justify="right", min_width=10, no_wrap=True)
    for name in before:
        if name in after and any(fnmatchcase(name, pattern) for pattern in patterns):
            difference = after[name] - before[name]
            table.add_row(name, f"{before[name]:.4g}", f"{after[name]:.4g}", f"{difference:+.4g}" if difference else "")
    return table


def recipe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`section.key: old -> new` for every value that differs between two resolved recipes."""
    changes = []
    for key, old in before.items():
        new = after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [f"{key}.{line}" for line in recipe_changes(old, new)]
        elif old != new:
            changes.append(f"{key}: {old} -> {new}")
    return changes
