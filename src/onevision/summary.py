"""What the terminal shows at the end of a run: one table, a row a stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from onevision.report import StageReport


def stage_table(reports: Sequence[StageReport]) -> Table:
    """Seconds, memory, counts and warnings of every stage; reused stages count nothing towards the total."""
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    spent = sum(report.seconds for report in reports if not report.reused)
    peak = max((report.peak_memory_mb for report in reports), default=0.0)
    table.add_column("stage", footer="total", no_wrap=True)
    table.add_column("seconds", footer=f"{spent:.1f}", justify="right", no_wrap=True)
    table.add_column("MB", footer=f"{peak:,.0f}", justify="right", no_wrap=True)
    table.add_column("counts")
    for report in reports:
        seconds = "reused" if report.reused else f"{report.seconds:.1f}"
        counts = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in report.counts.items())
        notes = "".join(f"\n! {warning}" for warning in report.warnings)
        table.add_row(report.stage, seconds, f"{report.peak_memory_mb:,.0f}", counts + notes)
    return table
