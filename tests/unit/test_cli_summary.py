"""What the terminal shows of runs: stages, warnings, and the difference between two runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from onevision import cli
from onevision.artifacts import finish_artifact, start_artifact, write_json
from onevision.recipe import load_recipe
from onevision.report import ReportTable, StageReport
from onevision.runs import Run, run_settings
from onevision.summary import comparison_table, recipe_changes, report_tables, stage_table


def render(table: Table) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def make_run(runs: Path, weight: float, hit_rate: float) -> Run:
    overrides = [f"encoder.circle_weight={weight}"]
    values = load_recipe("smoke", overrides)
    run = Run.create(runs, run_settings("full_training", "smoke", overrides, "", "2026-01-02", values))
    folder = start_artifact(run.path / "stages" / "evaluate")
    write_json(folder / "metrics.json", {"dense/hr@10": hit_rate, "dense/hr@1": 0.25})
    finish_artifact(folder, "evaluation")
    StageReport("evaluate", metrics={"dense/hr@10": hit_rate}).save(folder)
    run.link("evaluate", folder)
    return run


def test_reused_stages_count_nothing_towards_the_total() -> None:
    shown = render(
        stage_table(
            [
                StageReport("pair", seconds=100.0, peak_memory_mb=50.0, reused=True),
                StageReport("align", seconds=7.5, peak_memory_mb=90.0, warnings=["too few pairs"]),
            ]
        )
    )
    assert "reused" in shown
    assert "100.0" not in shown
    assert "too few pairs" in shown
    assert shown.splitlines()[-2].split() == ["total", "7.5", "90"]


def test_only_tables_with_rows_are_shown() -> None:
    report = StageReport(
        "x", tables=[ReportTable("full", ["a", "b"], [["r", 0.123456]]), ReportTable("empty", ["a"], [])]
    )
    (table,) = report_tables(report)
    assert "0.1235" in render(table)


def test_metrics_are_compared_by_pattern_and_order() -> None:
    before = {"align/r@1": 0.5, "dense/hr@10": 0.25, "gone": 1.0}
    after = {"align/r@1": 0.75, "dense/hr@10": 0.25, "new": 1.0}
    shown = render(comparison_table(before, after, ["align/*", "gone", "new"]))
    assert "+0.25" in shown
    assert "dense" not in shown
    assert "gone" not in shown
    assert "new" not in shown


def test_changed_recipe_values_are_named() -> None:
    before, after = ({"seed": 7, "encoder": {"steps": n, "width": 32}} for n in (10, 20))
    assert recipe_changes(before, after) == ["encoder.steps: 10 -> 20"]
    assert recipe_changes(before, before) == []


def test_two_runs_are_compared_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path, 0.5, 0.25), make_run(tmp_path, 1.0, 0.5)]
    monkeypatch.setattr(sys, "argv", ["onevision", "compare", *(str(run.path) for run in runs)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "encoder.circle_weight: 0.5 -> 1.0" in out
    assert "dense/hr@10" in out
    assert "+0.25" in out
    assert "dense/hr@1 " not in out
