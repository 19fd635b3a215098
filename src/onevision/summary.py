"""What the terminal shows at the end of a run: the stages, and how the systems compare."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from onevision.artifacts import Artifact
from onevision.publishing.headline import METRICS, read_headline
from onevision.report import StageReport


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
