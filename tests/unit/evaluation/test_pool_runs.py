"""The tables of the results are what `benchmarks/pool_runs.py` makes of the figures beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import pool_runs
from pool_runs import flat, interval, read, spread, systems, tables

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"


def seeds(name: str) -> dict[str, pool_runs.Figures]:
    return {seed: flat(stages) for seed, stages in json.loads((RESULTS / f"{name}.json").read_text()).items()}


@pytest.mark.parametrize("name", ["quickstart", "bench"])
def test_the_pages_show_what_the_files_have(name: str) -> None:
    page = (RESULTS / f"{name}.md").read_text()
    for table in tables(seeds(name)):
        assert table in page


def test_the_readme_shows_what_the_file_has() -> None:
    metrics = {key: pool_runs.METRICS[key] for key in ("hr@1", "hr@10", "hr@50", "mrr@10")}
    assert systems(list(seeds("quickstart").values()), metrics) in (ROOT / "README.md").read_text()


def test_a_runs_reports_are_read_by_stage(tmp_path: Path) -> None:
    for folder in pool_runs.STAGES.values():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.json").write_text(json.dumps({"metrics": {f"{folder}/x": 0.1234567}}))
    figures = flat(read(tmp_path))
    assert figures["evaluation/x"] == figures["align/encoder/x"] == 0.12346
    assert len(figures) == len(pool_runs.STAGES)


def test_means_deviations_and_intervals() -> None:
    assert spread([0.1, 0.2, 0.3]) == "20.0 ± 10.0"
    assert spread([0.25]) == "25.0"
    assert spread([]) == ""
    assert interval({"a": 0.02, "a/low": 0.01, "a/high": 0.03}, "a") == "+2.0 [1.0, 3.0] *"
    assert interval({"a": -0.02, "a/low": -0.05, "a/high": 0.0}, "a") == "-2.0 [-5.0, 0.0]"


def test_a_file_is_added_to_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = json.loads((RESULTS / "quickstart.json").read_text())
    for stage, folder in pool_runs.STAGES.items():
        (tmp_path / "run" / folder).mkdir(parents=True)
        (tmp_path / "run" / folder / "report.json").write_text(json.dumps({"metrics": published["8"][stage]}))
    file = tmp_path / "pooled.json"
    file.write_text(json.dumps({"7": published["7"]}))
    monkeypatch.setattr(sys, "argv", ["pool_runs", str(tmp_path / "run"), "--seeds", "8", "--json", str(file)])
    pool_runs.main()
    assert json.loads(file.read_text()) == {seed: published[seed] for seed in ("7", "8")}
    assert "| difference, points | seed 7 | seed 8 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["pool_runs", str(tmp_path / "run"), "--json", str(file)])
    with pytest.raises(SystemExit):
        pool_runs.main()
    assert "give one for each" in capsys.readouterr().err
