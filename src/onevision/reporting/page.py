"""The page of one stage: counts, metrics, warnings, tables and figures in one HTML file.

KFP shows it in a sandboxed frame, so everything is inline: no script, link, font or picture from elsewhere
(a content security policy in the page says so too).
"""

from __future__ import annotations

from dataclasses import dataclass

from onevision.report import StageReport
from onevision.reporting.templates import render
from onevision.stages import STAGES


@dataclass(frozen=True)
class MetricTable:
    """Metrics `<system>/<metric>` laid out with a row a metric and a column a system; None where one is missing."""

    systems: list[str]
    rows: list[tuple[str, list[float | None]]]


def stage_page(report: StageReport) -> str:
    """HTML of one stage's report, complete in itself."""
    stage = STAGES.get(report.stage)
    return render(
        "stage.html",
        title=report.stage,
        summary=stage.summary if stage else "",
        report=report,
        plain={name: value for name, value in report.metrics.items() if "/" not in name},
        systems=metric_table(report.metrics),
    )


def metric_table(metrics: dict[str, float]) -> MetricTable:
    """Lay out the metrics that belong to a system, systems and metrics in the order they come."""
    values: dict[tuple[str, str], float] = {}
    for name, value in metrics.items():
        system, separator, metric = name.partition("/")
        if separator:
            values[system, metric] = value
    systems = list(dict.fromkeys(system for system, _ in values))
    names = list(dict.fromkeys(metric for _, metric in values))
    return MetricTable(systems, [(name, [values.get((s, name)) for s in systems]) for name in names])
