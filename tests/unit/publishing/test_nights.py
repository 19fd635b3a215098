"""A night: begun once at a time, decided once, closed with what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.bundles import Shop
from support.gcs_emulator import GcsEmulator
from support.snapshots import make_tables, save_snapshot

from onevision.artifacts import finish_artifact, open_artifact, read_json, write_json
from onevision.data.days import cut_snapshot
from onevision.data.lease import LeaseLost, LockHeld
from onevision.data.store import StoreError, read_pointer
from onevision.errors import ArtifactError, ContractError, OneVisionError
from onevision.publishing import opening
from onevision.publishing.closing import close_night
from onevision.publishing.config import PublishingConfig
from onevision.publishing.nights import Night, read_day
from onevision.publishing.opening import run as open_champion
from onevision.recipe import load_recipe
from onevision.report import StageReport
from onevision.task import end_night, run_task

CONFIG = PublishingConfig()


@pytest.fixture(params=["local", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop"):
        yield str(tmp_path / "store") if request.param == "local" else "gs://shop/bundles"


@pytest.fixture
def old_day(tiny_snapshot: Path, tmp_path: Path) -> Path:
    """The tiny shop a day before the snapshot that nights are begun with."""
    cut_snapshot(tiny_snapshot, tmp_path / "day-before", datetime(2026, 1, 12, tzinfo=UTC))
    return tmp_path / "day-before"


@pytest.fixture
def champion(old_day: Path, tmp_path: Path, store: str) -> str:
    """Identity of a champion that was made a day ago."""
    root = tmp_path / "old"
    shop = Shop(old_day, root)
    shop.publish(shop.inputs(), store)
    pointer, _ = read_pointer(store)
    assert pointer
    return str(pointer["bundle"])


def begin(store: str, day: Path, out: Path, run: str = "one", recipe: str = "abcdef123456") -> StageReport:
    return open_champion(out=out, config=CONFIG, seed=0, champion=store, snapshot=str(day), recipe_hash=recipe, run=run)


def night_of(store: str, day: Path, run: str = "one", recipe: str = "abcdef123456") -> Night:
    return Night.of(store, read_day(str(day)), recipe, run)


def beside(inputs: dict[str, Path], champion: str, difference: float, moved: int = 0) -> dict[str, Path]:
    """The inputs, their evaluation as if measured beside a champion."""
    path = inputs["evaluation"]
    own = read_json(path / "metrics.json")
    metrics = {f"champion/{name}": own[f"generator_pruned/{name}"] for name in ("hr@10", "mrr@10")}
    metrics |= {f"generator_pruned_minus_champion/{name}/high": difference for name in ("hr@10", "mrr@10")}
    write_json(path / "metrics.json", own | metrics | {"champion/items_moved": moved})
    manifest = read_json(path / "manifest.json")
    parents = {name: open_artifact(inputs[name]) for name in manifest["parents"]}
    parents["champion"] = type(parents["snapshot"])(path, "bundle", champion)
    finish_artifact(path, "evaluation", parents=parents, extra=manifest["extra"])
    return inputs


def test_a_night_begins_with_the_champion_under_its_lease(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    report = begin(store, tiny_snapshot, tmp_path / "bundle")
    assert report.counts["refresh"] == 1
    assert open_artifact(tmp_path / "bundle", "bundle").identity == champion
    entry = night_of(store, tiny_snapshot).entry()
    assert entry is not None
    assert (entry["outcome"], entry["champion"], entry["run"]) == ("begun", champion, "one")
    with pytest.raises(LockHeld, match="held by nightly refresh 2026-01-13-abcdef12"):
        begin(store, tiny_snapshot, tmp_path / "other", run="two", recipe="other-recipe")


def test_a_killed_night_is_taken_over_by_a_new_run_and_the_old_one_is_fenced(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one", run="one")
    assert begin(store, tiny_snapshot, tmp_path / "two", run="two").counts["refresh"] == 1
    shop = Shop(tiny_snapshot, tmp_path / "new")
    inputs = beside(shop.inputs(weights="new"), champion, 0.1)
    with pytest.raises(LeaseLost, match="run two took this night over"):
        shop.publish(inputs, store, night=night_of(store, tiny_snapshot, "one"))
    assert read_pointer(store)[0]["bundle"] == champion  # type: ignore[index]
    shop.publish(inputs, store, night=night_of(store, tiny_snapshot, "two"))
    assert read_pointer(store)[0]["bundle"] != champion  # type: ignore[index]


def test_the_same_night_twice_changes_nothing_and_says_so(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    shop = Shop(tiny_snapshot, tmp_path / "new")
    shop.publish(beside(shop.inputs(weights="new"), champion, 0.1), store, night=night_of(store, tiny_snapshot))
    closing = close_night(night_of(store, tiny_snapshot), True)
    assert closing.outcome == "promoted"
    before = read_pointer(store)
    report = begin(store, tiny_snapshot, tmp_path / "two", run="two")
    assert report.counts["refresh"] == 0
    assert "decided already (promoted" in report.warnings[0]
    again = close_night(night_of(store, tiny_snapshot, "two"), True)
    assert again.outcome == "nothing to do"
    assert read_pointer(store) == before
    assert begin(store, tiny_snapshot, tmp_path / "three", run="three", recipe="new").counts["refresh"] == 0


def test_killed_between_the_pointer_and_the_record_a_night_is_not_done_again(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    shop = Shop(tiny_snapshot, tmp_path / "new")
    inputs = beside(shop.inputs(weights="new"), champion, 0.1)
    record = Night.record
    monkeypatch.setattr(Night, "record", _killed)
    with pytest.raises(KeyboardInterrupt):
        shop.publish(inputs, store, night=night_of(store, tiny_snapshot))
    monkeypatch.setattr(Night, "record", record)
    promoted = read_pointer(store)
    assert promoted[0]["bundle"] != champion  # type: ignore[index]
    report = begin(store, tiny_snapshot, tmp_path / "two", run="two")
    assert "this night's own bundle" in report.warnings[0]
    assert night_of(store, tiny_snapshot).entry()["outcome"] == "promoted"  # type: ignore[index]
    assert read_pointer(store) == promoted


@pytest.mark.parametrize(("difference", "moved", "rule"), [(-0.01, 0, "beside champion"), (0.1, 1, "codes kept")])
def test_a_worse_challenger_or_a_moved_code_leaves_the_champion(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path, difference: float, moved: int, rule: str
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    shop = Shop(tiny_snapshot, tmp_path / "new")
    inputs = beside(shop.inputs(weights="new"), champion, difference, moved)
    shop.publish(inputs, store, night=night_of(store, tiny_snapshot))
    closing = close_night(night_of(store, tiny_snapshot), True)
    assert closing.outcome == "kept"
    assert closing.champion == champion == read_pointer(store)[0]["bundle"]  # type: ignore[index]
    failed = [r["name"] for r in read_json(shop.root / "bundle/decision.json")["rules"] if not r["passed"]]
    assert failed
    assert all(rule in name for name in failed)
    assert len(closing.why) == len(failed)


def test_a_challenger_is_not_judged_by_a_champion_that_is_none_any_more(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    shop = Shop(tiny_snapshot, tmp_path / "new")
    with pytest.raises(ArtifactError, match=f"beside bundle elsewhere, the champion is now {champion}"):
        shop.publish(beside(shop.inputs(weights="new"), "elsewhere", 0.1), store)


def test_an_older_day_is_not_taken_in(store: str, champion: str, old_day: Path, tmp_path: Path) -> None:
    report = begin(store, old_day, tmp_path / "one")
    assert "was made from 2026-01-12, the day is 2026-01-12" in report.warnings[0]


def test_a_stopped_night_says_why_and_may_be_tried_again(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    night = night_of(store, tiny_snapshot)
    night.record("stopped", ["the day has no events"])
    closing = close_night(night, False)
    assert (closing.outcome, closing.why, closing.champion) == ("stopped", ["the day has no events"], champion)
    assert begin(store, tiny_snapshot, tmp_path / "two", run="two").counts["refresh"] == 1
    assert close_night(night_of(store, tiny_snapshot, "two"), False).outcome == "failed"


@pytest.mark.parametrize(
    ("stage", "outcome", "reason", "advice"),
    [
        ("validate", "stopped", "gone: no such artifact folder", "Put the day right"),
        ("publish", "failed", "stage publish takes the inputs", "Run the same night again"),
    ],
)
def test_what_ended_a_night_is_recorded_by_its_task_and_said_at_the_end(
    champion: str,
    store: str,
    tiny_snapshot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    outcome: str,
    reason: str,
    advice: str,
) -> None:
    recipe = load_recipe("smoke").hash()
    begin(store, tiny_snapshot, tmp_path / "one", recipe=recipe)
    night = night_of(store, tiny_snapshot, recipe=recipe)
    made = {name: SimpleNamespace(path=str(tmp_path / name), metadata={}) for name in ("out", "metrics", "page")}
    with pytest.raises(SystemExit):
        run_task(
            stage,
            {"snapshot": str(tmp_path / "gone")},
            made["out"],
            recipe="smoke",
            overrides=[],
            metrics=made["metrics"],
            page=made["page"],
            night=str(night),
        )
    end_night(store, str(tiny_snapshot), "one", recipe="smoke", overrides=[], succeeded=False, page=made["page"])
    said = capsys.readouterr().out
    assert f"night {night.key}: {outcome}, serving {champion}" in said
    assert reason in said.split(f"{outcome}, serving")[1]
    assert f"next: {advice}" in said
    assert reason in Path(made["page"].path).read_text()
    end_night(store, str(tmp_path / "gone"), "one", recipe="smoke", overrides=[], succeeded=False, page=made["page"])
    assert "not begun" in capsys.readouterr().out


def test_a_run_that_comes_late_does_not_write_over_what_was_decided(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    monkeypatch.setattr(opening, "_nothing_to_do", _decided_just_after(night_of(store, tiny_snapshot)))
    with pytest.raises(LeaseLost, match="run one has kept it meanwhile"):
        begin(store, tiny_snapshot, tmp_path / "two", run="two")
    entry = night_of(store, tiny_snapshot).entry()
    assert entry is not None
    assert (entry["outcome"], entry["run"]) == ("kept", "one")
    late = close_night(night_of(store, tiny_snapshot, "two"), False)
    assert late.outcome == "not begun"
    assert "run one" in late.why[0]


def _decided_just_after(night: Night) -> Callable[..., str]:
    def look(*_: object) -> str:
        night.record("kept")
        return ""

    return look


@pytest.mark.parametrize(
    ("error", "outcome"), [(ContractError("bad rows"), "stopped"), (StoreError("no answer"), "failed")]
)
def test_only_a_day_that_is_refused_stops_a_night(
    tmp_path: Path, tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch, error: OneVisionError, outcome: str
) -> None:
    night = night_of(str(tmp_path / "store"), tiny_snapshot)
    night.begin("some-bundle", read_day(str(tiny_snapshot)))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("onevision.task.run_stage", fail)
    out = SimpleNamespace(path=str(tmp_path / "out"), metadata={})
    with pytest.raises(SystemExit):
        run_task("validate", {}, out, recipe="smoke", overrides=[], metrics=out, page=out, night=str(night))
    entry = night.entry()
    assert entry is not None
    assert entry["outcome"] == outcome


def test_a_night_that_did_not_begin_is_closed_without_touching_the_one_at_work(
    store: str, champion: str, tiny_snapshot: Path, tmp_path: Path
) -> None:
    begin(store, tiny_snapshot, tmp_path / "one")
    assert close_night(night_of(store, tiny_snapshot, "other", "other-recipe"), False).outcome == "not begun"
    with pytest.raises(LockHeld):
        begin(store, tiny_snapshot, tmp_path / "two", run="two", recipe="other-recipe")


def test_an_empty_store_and_a_half_written_day_are_named(tmp_path: Path, tiny_snapshot: Path) -> None:
    with pytest.raises(OneVisionError, match="no champion to refresh; begin with a full training"):
        begin(str(tmp_path / "empty"), tiny_snapshot, tmp_path / "one")
    tables, images = make_tables()
    half = save_snapshot(tmp_path / "half", tables, images).path
    (half / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not written to its end"):
        begin(str(tmp_path / "empty"), half, tmp_path / "two")
    (half / "manifest.json").write_text('{"extra": {}}')
    with pytest.raises(ContractError, match="names no snapshot_id"):
        read_day(str(half))


def test_a_night_is_written_and_read_as_one_text() -> None:
    night = Night("gs://shop/a#b", "2026-01-13-abcdef12", "17")
    assert Night.parse(str(night)) == night
    with pytest.raises(ArtifactError, match="STORE#DATE-RECIPE#RUN"):
        Night.parse("2026-01-13")


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
