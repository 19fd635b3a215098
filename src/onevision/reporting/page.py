"""The page of one stage: counts, metrics, warnings, tables and figures in one HTML file.

KFP shows it in a sandboxed frame, so everything is inline: no script, link, font or picture from elsewhere
(a content security policy in the page says so too).
"""

from __future__ import annotations

from dataclasses import dataclass

from onevision.report import StageReport
from onevision.reporting.templates import render
from onevision.stages import ALL_STAGES


@dataclass(frozen=True)
class MetricTable:
    """Metrics `<system>/<metric>` laid out with a row a metric and a column a system; None where one is missing."""

    systems: list[str]
    rows: list[tuple[str, list[float | None]]]


def stage_page(report: StageReport) -> str:
    """HTML of one stage's report, complete in itself."""
    stage = ALL_STAGES.get(report.stage)
    return render(
        "stage.html",
        title=report.stage,
        summary=stage.summary if stage else "",
        report=report,
        plain={name: value for name, value in report.metrics.items() if "/" not in name},
        systems=metric_tables(report.metrics),
    )


def metric_tables(metrics: dict[str, float]) -> list[MetricTable]:
    """Lay out the metrics that belong to a system, in the order they come: a table for systems measured alike.

    A system joins a table that knows at least half of its metrics.
    """
    values: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        system, separator, metric = name.partition("/")
        if separator:
            values.setdefault(system, {})[metric] = value
    groups: list[tuple[list[str], dict[str, None]]] = []
    for system, own in values.items():
        alike = (g for g in groups if 2 * len(own.keys() & g[1].keys()) >= len(own))
        group = next(alike, None)
        if group is None:
            group = ([], {})
            groups.append(group)
        systems, names = group
        systems.append(system)
        names.update(dict.fromkeys(own))
    return [MetricTable(g, [(name, [values[s].get(name) for s in g]) for name in names]) for g, names in groups]
