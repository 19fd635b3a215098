"""The report of a run: one self-contained HTML file from the reports and artifacts of its stages.

It is written for finished and for failed runs: a section appears where its stage has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onevision.artifacts import MANIFEST
from onevision.data.snapshot import Snapshot
from onevision.report import REPORT, Figure, ReportTable, StageReport
from onevision.reporting.dag import SOURCE, StageState, draw_dag
from onevision.reporting.page import MetricTable, metric_tables
from onevision.reporting.run_sections import codes_section, gallery_section, headline_section, verdict
from onevision.reporting.templates import render
from onevision.runs import LINKS, Run
from onevision.stages import STAGES

MAX_BYTES = 5_000_000
_TRAINING = ("align", "sft", "align-preferences")


@dataclass(frozen=True)
class RunSummary:
    """What the report is written from.

    Attributes:
        recipe: name or path of the recipe; `values` is the resolved one.
        artifacts: stage (and `snapshot`) -> folder of its artifact, of those that finished.
        failed: the stage that failed, with `error` to show; both empty for a finished run.
    """

    run_id: str
    pipeline: str
    recipe: str
    run_date: str
    values: Mapping[str, Any]
    artifacts: Mapping[str, Path]
    overrides: tuple[str, ...] = ()
    failed: str = ""
    error: str = ""

    @classmethod
    def of(cls, run: Run, failed: str = "", error: str = "") -> RunSummary:
        """Summary of a run folder; name the stage that failed, if one did, and what it said."""
        settings = run.settings
        finished = {stage: run.artifact(stage) for stage in LINKS if (run.artifact(stage) / MANIFEST).exists()}
        return cls(
            run_id=run.path.name,
            pipeline=settings.pipeline,
            recipe=settings.recipe,
            run_date=settings.run_date,
            values=settings.values,
            artifacts=finished,
            overrides=tuple(settings.overrides),
            failed=failed,
            error=error,
        )


@dataclass
class Detail:
    """What is left to say of a stage after the sections above."""

    report: StageReport
    systems: list[MetricTable]
    plain: dict[str, float]
    tables: list[ReportTable]
    figures: list[Figure]


@dataclass
class _Reports:
    """Reports of the finished stages; remembers which figures and tables a section has taken."""

    of: dict[str, StageReport]
    taken: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def load(cls, artifacts: Mapping[str, Path]) -> _Reports:
        return cls({s: StageReport.load(path) for s, path in artifacts.items() if (path / REPORT).exists()})

    def figures(self, *stages: str) -> list[Figure]:
        """Charts and pictures of the stages (pages within the page stay with the details)."""
        found = []
        for stage in stages:
            for figure in self.of[stage].figures if stage in self.of else []:
                if figure.kind != "html" and (stage, figure.title) not in self.taken:
                    self.taken.add((stage, figure.title))
                    found.append(figure)
        return found

    def tables(self, stage: str) -> list[ReportTable]:
        """All tables of a stage."""
        found = self.of[stage].tables if stage in self.of else []
        self.taken |= {(stage, table.title) for table in found}
        return found

    def details(self) -> list[Detail]:
        """What no section has taken, stage by stage."""
        return [
            Detail(
                report,
                metric_tables(report.metrics),
                {name: value for name, value in report.metrics.items() if "/" not in name},
                [t for t in report.tables if (stage, t.title) not in self.taken],
                [f for f in report.figures if (stage, f.title) not in self.taken],
            )
            for stage, report in self.of.items()
        ]


def write_run_report(run: RunSummary, out: Path) -> Path:
    """Write `report.html` of a finished or failed run.

    Args:
        out: the HTML file.

    Returns:
        `out`; it is smaller than `MAX_BYTES`: where it would not be, figures of the details stay in the stages' pages.
    """
    page = _page(run, with_detail_figures=True)
    if len(page.encode()) > MAX_BYTES:
        page = _page(run, with_detail_figures=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _page(run: RunSummary, *, with_detail_figures: bool) -> str:
    reports = _Reports.load(run.artifacts)
    states = _states(run, reports.of)
    shop = _snapshot(run)
    evaluation, pairs = run.artifacts.get("evaluate"), run.artifacts.get("pair")
    headline = headline_section(evaluation) if evaluation else None
    if headline:
        reports.taken.add(("evaluate", headline["figure"].title))
    sections = {
        "headline": headline,
        "data": {"figures": reports.figures(SOURCE), "tables": reports.tables("validate")},
        "pairs": {"figures": reports.figures("pair"), "tables": reports.tables("pair")} if pairs else None,
        "codes": codes_section(run.artifacts, reports.of, reports.figures("train-vrq")),
        "gallery": gallery_section(evaluation, shop) if evaluation and shop else None,
        "measures": {"tables": reports.tables("evaluate"), "figures": reports.figures("evaluate")},
        "pruning": {"tables": reports.tables("calibrate-pruning"), "figures": reports.figures("calibrate-pruning")},
        "training": reports.figures(*_TRAINING),
        "publish": reports.tables("publish"),
    }
    return render(
        "run.html",
        title=f"Run {run.run_id}",
        run=run,
        shop=shop,
        verdict=verdict(run.artifacts.get("publish")),
        dag=draw_dag(states),
        stages=_stage_rows(states, reports.of),
        total=sum(state.seconds for state in states.values() if state.status == "done"),
        warnings=[(stage, w) for stage, report in reports.of.items() for w in report.warnings],
        sections=sections,
        details=reports.details(),
        with_detail_figures=with_detail_figures,
        recipe=yaml.safe_dump(dict(run.values), sort_keys=False),
    )


def _states(run: RunSummary, reports: Mapping[str, StageReport]) -> dict[str, StageState]:
    states = {}
    for stage in (SOURCE, *STAGES):
        if stage in reports:
            report = reports[stage]
            states[stage] = StageState("reused" if report.reused else "done", report.seconds)
        elif stage == run.failed:
            states[stage] = StageState("failed")
    return states


def _stage_rows(states: Mapping[str, StageState], reports: Mapping[str, StageReport]) -> list[list[Any]]:
    rows = []
    for stage, state in states.items():
        report = reports.get(stage)
        counts = [f"{name.replace('_', ' ')} {value:,}" for name, value in report.counts.items()] if report else []
        memory = round(report.peak_memory_mb) if report else None
        rows.append([stage, state.status, round(state.seconds, 1), memory, ", ".join(counts[:6])])
    return rows


def _snapshot(run: RunSummary) -> Snapshot | None:
    """The validated snapshot, else the one that came in."""
    path = run.artifacts.get("validate") or run.artifacts.get(SOURCE)
    return Snapshot.open(path, verify=False) if path else None
