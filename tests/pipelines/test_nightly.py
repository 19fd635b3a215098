"""Whole nights at the smallest size: killed and resumed, late events, a corrupt day, and the same night again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_walk import TINY

from onevision.artifacts import open_artifact, read_json
from onevision.data.store import read_pointer
from onevision.rehearsal import faults
from onevision.rehearsal.attempts import attempt
from onevision.rehearsal.nights import simulate_nights
from onevision.report import StageReport
from onevision.stages import STAGES

NEVER = ("items_moved", "events_lost", "events_doubled", "bad_promotions", "nights_without_a_loadable_champion")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageReport]:
    """Two nights, each killed once and begun again: events that come late, and a corrupt day."""
    root = tmp_path_factory.mktemp("nights")
    recipe = root / "tiny.yaml"
    recipe.write_text(TINY.replace("seed: 7", "seed: 2").replace("generator: {", "generator: {warm_steps: 6, "))
    report = simulate_nights(
        out=root / "rehearsal",
        recipe=str(recipe),
        overrides=[],
        nights=2,
        source="synthetic",
        with_faults=True,
        show=print,
    )
    return root, report


def test_every_night_ends_as_it_should_and_no_code_moves(rehearsal: tuple[Path, StageReport]) -> None:
    root, report = rehearsal
    found = read_json(root / "rehearsal" / "nights.json")
    late, corrupt = found["nights"]
    assert [night["fault"] for night in (late, corrupt)] == [faults.LATE, faults.CORRUPT]
    assert not report.warnings
    assert {name: report.counts[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert late["attempts"][0]["outcome"] == "killed"
    assert corrupt["attempts"][-1]["outcome"] == "stopped"
    assert "checksum" in " ".join(corrupt["attempts"][-1]["why"])
    assert str(root) not in json.dumps(found["nights"])  # nobody else's machine has these folders
    assert corrupt["served_before"] == corrupt["served_after"] == late["served_after"]
    assert late["loadable"]
    assert set(late["hr10"]) == {"champion", "challenger", "dense"}
    low, high = late["difference"][1:]
    assert low <= late["difference"][0] <= high
    assert late["events"]["late"] > 0
    assert late["events"]["taken"] + late["events"]["late"] == late["events"]["happened"]
    beside = found["refreshed_and_frozen"]["all"]
    assert beside["refreshed"] == beside["frozen"]  # on the first night both are the same bundle
    assert beside["searches"] > 0


def test_a_night_leaves_a_run_like_any_other(rehearsal: tuple[Path, StageReport]) -> None:
    root, _ = rehearsal
    first = read_json(root / "rehearsal" / "nights.json")["nights"][0]
    run = root / "rehearsal" / "runs" / first["attempts"][-1]["run"]
    linked = {path.name for path in run.iterdir() if path.is_symlink()}
    assert linked == {
        "snapshot",
        "pairs",
        "encoder",
        "semantic_ids",
        "features",
        "generator_sft",
        "generator_aligned",
    } | {
        "pruning",
        "evaluation",
        "bundle",
    }
    assert (run / "report.html").exists()
    bundle = open_artifact(run / "bundle", "bundle")
    assert bundle.extra["night"].startswith(first["day"])
    assert open_artifact(run / "evaluation").parents["champion"] == first["served_before"]
    assert len(STAGES) == len(linked) + 1  # the codebooks are the champion's


def test_a_decided_night_again_changes_nothing_and_says_so(rehearsal: tuple[Path, StageReport]) -> None:
    root, _ = rehearsal
    store = root / "rehearsal" / "store"
    before = read_pointer(store)
    places = ["--champion", str(store), "--snapshot", str(root / "rehearsal" / "day-01")]
    again = attempt(
        ["run", "nightly-refresh", "--recipe", str(root / "tiny.yaml"), *places, "--runs", str(root / "runs")],
        root / "again.log",
    )
    assert again.outcome == "nothing to do"
    assert read_pointer(store) == before


def test_a_day_that_is_not_there_begins_no_night(rehearsal: tuple[Path, StageReport]) -> None:
    root, _ = rehearsal
    places = ["--champion", str(root / "rehearsal" / "store"), "--snapshot", str(root / "nowhere")]
    refused = attempt(
        ["run", "nightly-refresh", "--recipe", str(root / "tiny.yaml"), *places, "--runs", str(root / "runs")],
        root / "refused.log",
    )
    assert refused.outcome == "not begun"
    assert "no manifest.json there" in refused.why[0]
