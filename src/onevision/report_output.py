"""A report in the terminal and, if asked, in a folder: the end of commands that are no stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onevision.report import StageReport


def show_tables(report: StageReport, out: Path | None) -> None:
    """Print warnings and tables; write report and page to `out`."""
    from rich.console import Console

    from onevision.runner import write_page
    from onevision.summary import report_tables

    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    console = Console()
    for table in report_tables(report):
        console.print(table)
    if out:
        report.save(out)
        write_page(report, [out / "report.html"])
        print(f"written to {out}")
