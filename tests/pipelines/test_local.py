"""The local runner: what it shows, what it leaves behind, how it fails. (A whole run: test_walk.py.)"""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import pytest

from onevision.artifacts import finish_artifact, start_artifact
from onevision.errors import ArtifactError, OneVisionError
from onevision.recipe import load_recipe
from onevision.report import StageReport
from onevision.runs import LATEST, Run, replace_link, run_settings
from onevision.stage_cache import CACHE_VARIABLE
from pipelines.full_training import full_training
from pipelines.local import print_put_back, run_full_training


def make_run(runs: Path) -> Run:
    return Run.create(runs, run_settings("full_training", "smoke", [], "", "2026-01-02", load_recipe("smoke")))


def make_stage(run: Run, stage: str, **report: object) -> None:
    folder = start_artifact(run.path / "stages" / stage)
    finish_artifact(folder, "pairs")
    StageReport(stage, **report).save(folder)  # type: ignore[arg-type]
    run.link(stage, folder)


def test_a_failing_stage_is_named_with_its_reason_and_the_way_on(tmp_path: Path) -> None:
    shown: list[str] = []
    retries = [task.retry_policy.max_retry_count for task in full_training.pipeline_spec.root.dag.tasks.values()]
    with pytest.raises(OneVisionError, match=r"stage 'prerequisites' failed(.|\n)*same command again") as failure:
        run_full_training(recipe="smoke", snapshot=str(tmp_path / "nowhere"), runs=tmp_path / "runs", show=shown.append)
    assert f"prerequisites failed: {tmp_path / 'nowhere'}: no manifest.json there" in "\n".join(shown)
    assert "validate: started" not in shown
    assert "Traceback" not in "\n".join([*shown, str(failure.value)])
    assert not [line for line in shown if "executor_input" in line]
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.name.endswith("smoke")]
    assert "executor_input" in (run / "run.log").read_text()
    assert "no manifest.json there" in (run / "report.html").read_text()
    assert not (tmp_path / "runs" / LATEST).exists()
    assert CACHE_VARIABLE not in os.environ
    after = [task.retry_policy.max_retry_count for task in full_training.pipeline_spec.root.dag.tasks.values()]
    assert after == retries


def test_a_wrong_recipe_fails_before_a_run_begins(tmp_path: Path) -> None:
    with pytest.raises(OneVisionError, match="did you mean"):
        run_full_training(recipe="smoke", overrides=["encodr.steps=1"], runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    assert len({make_run(tmp_path).path for _ in range(3)}) == 3


def test_metrics_of_a_run_are_flat(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_stage(run, "pair", counts={"pairs_out": 5}, seconds=2.0, peak_memory_mb=100.0)
    make_stage(run, "evaluate", counts={"queries": 3}, metrics={"dense/hr@10": 0.5, "dense/latency_ms_p50": 0.1})
    run.finish()
    assert (run.path / "metrics.json").exists()
    assert run.metrics() == {
        "dense/hr@10": 0.5,
        "dense/latency_ms_p50": 0.1,
        "evaluate/seconds": 0.0,
        "evaluate/peak_memory_mb": 0.0,
        "evaluate/queries": 3,
        "pair/seconds": 2.0,
        "pair/peak_memory_mb": 100.0,
        "pair/pairs_out": 5,
    }


def test_latest_points_at_the_last_finished_run(tmp_path: Path) -> None:
    first, second = make_run(tmp_path), make_run(tmp_path)
    first.finish()
    assert (tmp_path / LATEST).resolve() == first.path
    second.finish()
    assert (tmp_path / LATEST).resolve() == second.path
    assert not Path(os.readlink(tmp_path / LATEST)).is_absolute()
    assert Run.open(tmp_path / LATEST).settings.recipe == "smoke"


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        replace_link(tmp_path / "link", tmp_path / name)
        assert (tmp_path / "link").resolve() == tmp_path / name


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run folder"):
        Run.open(tmp_path)


def test_print_is_put_back_after_tasks_in_threads_left_another_there() -> None:
    before = builtins.print
    with print_put_back():
        builtins.print = lambda *_, **__: None
    assert builtins.print is before
