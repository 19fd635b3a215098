"""The report of a run, finished or failed."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision.artifacts import finish_artifact, start_artifact, write_json
from onevision.data.snapshot import Snapshot
from onevision.recipe import Recipe
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting import run_report
from onevision.reporting.run_report import MAX_BYTES, RunSummary, write_run_report
from onevision.runs import Run, run_settings


def summary(artifacts: dict[str, Path], **more: str) -> RunSummary:
    values = Recipe().model_dump(mode="json")
    return RunSummary("20260113-smoke", "full_training", "smoke", "2026-01-13", values, artifacts, **more)


def written(run: RunSummary, tmp_path: Path) -> str:
    return write_run_report(run, tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def finished(tiny_snapshot: Path, tmp_path: Path) -> dict[str, Path]:
    """A run with a report of every stage that a section is made of, and the artifacts that are read."""
    root = tmp_path / "run"
    validated = start_artifact(root / "validate")
    for file in tiny_snapshot.iterdir():
        (validated / file.name).symlink_to(file)
    StageReport("validate", tables=[ReportTable("Rows", ["table", "in"], [["items", 24]])], seconds=3).save(validated)
    return {
        "validate": validated,
        "assign-ids": _semantic_ids(root / "assign-ids"),
        "train-vrq": _quantizer(root / "train-vrq"),
        "evaluate": _evaluation(root / "evaluate", Snapshot.open(tiny_snapshot)),
        "publish": _bundle(root / "publish"),
    }


def _semantic_ids(path: Path) -> Path:
    start_artifact(path)
    pq.write_table(pa.table({"sid": [[0, 1], [0, 0], [2, 1]]}), path / "items.parquet")
    write_json(path / "trie.json", {"codebook_sizes": [4, 2]})
    finish_artifact(path, "semantic_ids")
    StageReport("assign-ids", counts={"items_in": 3}, seconds=1.5).save(path)
    return path


def _quantizer(path: Path) -> Path:
    start_artifact(path)
    finish_artifact(path, "quantizer")
    metrics = {f"{q}/cold_vc@{level}": 0.5 / level for q in ("vrq", "rq_kmeans") for level in (1, 2)}
    loss = Figure("VRQ losses", "svg", "<svg xmlns='http://www.w3.org/2000/svg'/>")
    StageReport("train-vrq", metrics=metrics, figures=[loss], warnings=["level 1 leaves codes unused"]).save(path)
    return path


def _evaluation(path: Path, shop: Snapshot) -> Path:
    start_artifact(path)
    systems = {"dense": 5, "cascade": 1, "generator_pruned": 2, "oracle_visual": 1}
    rows = [{"query_id": f"q{n}", "system": s, "rank": rank} for s, rank in systems.items() for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), path / "ranks.parquet")
    entry = {
        "query_id": "q0",
        "query_image": shop.images.ids[-1],
        "photographed": "i001",
        "clicked": ["i002"],
        "cascade": ["i002", "i001", "i003"],
        "generator_pruned": ["i004"],
    }
    write_json(path / "gallery.json", [entry])
    finish_artifact(path, "evaluation", extra={"bootstrap_samples": 100, "seed": 1})
    table = ReportTable("Systems on the same queries", ["system", "hr@10"], [["dense", "40.0 [30.0, 50.0]"]])
    StageReport("evaluate", tables=[table], metrics={"dense/hr@10": 0.4}, seconds=12, peak_memory_mb=512).save(path)
    return path


def _bundle(path: Path) -> Path:
    start_artifact(path)
    write_json(path / "decision.json", {"promote": False, "rules": [{"name": "hr@10 of dense", "passed": False}]})
    finish_artifact(path, "bundle")
    StageReport("publish", tables=[ReportTable("Gate", ["rule"], [["hr@10 of dense"]])], reused=True).save(path)
    return path


def test_report_of_a_finished_run_holds_every_section(finished: dict[str, Path], tmp_path: Path) -> None:
    page = written(summary(finished), tmp_path)
    for text in (
        "not promoted (hr@10 of dense)",
        "tiny-2026-01-13",
        "How well it finds what shoppers click",
        "What shoppers would have seen",
        "Items on each code",
        "Code agreement for products never trained on",
        "VRQ losses",
        "level 1 leaves codes unused",
        "codebook_sizes:",
        "12 s",
    ):
        assert text in page
    assert page.count('class="failure"') == 0


def test_gallery_marks_what_was_clicked_and_what_is_in_the_photo(finished: dict[str, Path], tmp_path: Path) -> None:
    page = written(summary(finished), tmp_path)
    gallery = page[page.index('<table class="gallery">') :].split("</table>")[0]
    assert gallery.count("data:image/jpeg;base64,") == 1 + 1 + 3 + 1
    assert gallery.count('class="pic clicked"') == 2
    assert gallery.count('class="pic product"') == 1


def test_best_servable_system_is_bold_and_an_oracle_never_is(finished: dict[str, Path], tmp_path: Path) -> None:
    page = written(summary(finished), tmp_path)
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">([^<]+)</th>(.*?)</tr>", page, re.S)
    best = {name for name, cells in rows if "best" in cells}
    assert "cascade" in best
    assert "oracle visual" not in best


def test_report_is_self_contained_and_the_same_for_the_same_run(finished: dict[str, Path], tmp_path: Path) -> None:
    page = written(summary(finished), tmp_path)
    assert not re.search(r"<(script|link|object|embed)\b", page)
    for address in re.findall(r'\b(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:", "#"))
    assert page == written(summary(finished), tmp_path)


@pytest.mark.parametrize("kept", [[], ["validate"], ["validate", "train-vrq"]])
def test_report_of_a_failed_run_shows_what_there_is_and_the_error(
    finished: dict[str, Path], tmp_path: Path, kept: list[str]
) -> None:
    error = "codebook collapse: <level> 1"
    page = written(summary({s: finished[s] for s in kept}, failed="assign-ids", error=error), tmp_path)
    assert "Stage <code>assign-ids</code> failed" in page
    assert "codebook collapse: &lt;level&gt; 1" in page
    assert 'class="failed"' in page
    assert "How well it finds" not in page
    assert ("VRQ losses" in page) == ("train-vrq" in kept)


def test_a_run_that_ended_without_naming_a_stage_still_shows_its_error(tmp_path: Path) -> None:
    page = written(summary({}, error="no such snapshot"), tmp_path)
    assert "The run failed" in page
    assert "no such snapshot" in page


def test_large_figures_stay_in_the_stages_own_pages(finished: dict[str, Path], tmp_path: Path) -> None:
    report = StageReport.load(finished["validate"])
    report.figures.append(Figure("Data docs", "html", "<p>" + "x" * (MAX_BYTES + 1) + "</p>"))
    report.save(finished["validate"])
    page = written(summary(finished), tmp_path)
    assert len(page) < MAX_BYTES
    assert "stage's own report.html" in page.replace("&#39;", "'")


def test_summary_of_a_run_folder_knows_its_artifacts(finished: dict[str, Path], tmp_path: Path) -> None:
    settings = run_settings("full_training", "smoke", ["seed=3"], "", "2026-01-13", Recipe(seed=3))
    run = Run.create(tmp_path / "runs", settings)
    run.link("evaluate", finished["evaluate"])
    found = RunSummary.of(run, "publish", "the store is full")
    assert set(found.artifacts) == {"evaluate"}
    assert (found.recipe, found.overrides, found.values["seed"]) == ("smoke", ("seed=3",), 3)
    assert run_report.write_run_report(found, run.path / "report.html").exists()
