"""A store keeps what it may have to serve again, and no crash or race removes that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from support.bundles import Days, Shop
from support.flaky_store import Flaky, KilledError
from support.gcs_emulator import GcsEmulator
from typer.testing import CliRunner

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.cli import app
from onevision.data.store import PointerConflict, read_pointer, swap_pointer
from onevision.errors import ArtifactError
from onevision.publishing import history, retention
from onevision.publishing.config import PublishingConfig
from onevision.publishing.history import read_history
from onevision.publishing.promotion import promote, read_champion, roll_back, upload_bundle, upload_encoder
from onevision.publishing.retention import retire

KEEP_ONE = PublishingConfig(keep_bundles=1, keep_champion_days=0)


def bundles_in(store: str | Path) -> set[str]:
    return {path.name for path in Path(store, "bundles").iterdir()}


def test_the_last_bundles_stay_and_older_ones_go_whole(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    made = [night(store, n) for n in range(6)]
    assert set(retire(store, PublishingConfig(keep_bundles=3, keep_champion_days=0))) == set(made[:3])
    assert bundles_in(store) == set(made[3:])
    assert retire(store, PublishingConfig(keep_bundles=3, keep_champion_days=0)) == []


def test_champions_of_the_last_days_stay(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    made = [night(store, n, promoted=n % 2 == 0) for n in range(8)]
    # champions from day 0, 2, 4 and 6; today is day 8, and the second one was served until day 4
    assert set(retire(store, PublishingConfig(keep_bundles=1, keep_champion_days=4))) == {
        made[0],
        made[1],
        *made[3:6:2],
    }
    assert bundles_in(store) == {made[2], made[4], made[6], made[7]}


def test_the_champion_and_what_a_rollback_serves_always_stay(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    first, second = night(store, 0), night(store, 1)
    refused = [night(store, n, promoted=False) for n in range(2, 6)]
    retire(store, KEEP_ONE)
    assert bundles_in(store) == {first, second, refused[-1]}
    assert roll_back(store) == first
    retire(store, KEEP_ONE)
    assert roll_back(store) == second


def test_a_killed_upload_goes_after_a_day_and_one_on_its_way_stays(
    night: Callable[..., str], tmp_path: Path, days: Days
) -> None:
    store = tmp_path / "store"
    champion = night(str(store), 0)
    for name, age in (("killed", timedelta(days=2)), ("sending", timedelta(hours=2))):
        file = store / "bundles" / name / "weights"
        file.parent.mkdir()
        file.write_text("half")
        os.utime(file, ((days.today - age).timestamp(),) * 2)
    assert retire(str(store), KEEP_ONE) == ["killed"]
    assert bundles_in(store) == {champion, "sending"}


def test_a_store_without_a_champion_keeps_everything(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    made = {night(store, n, promoted=False) for n in range(3)}
    assert retire(store, KEEP_ONE) == []
    assert bundles_in(store) == made


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_store_call_it_is_finished_by_the_next(
    night: Callable[..., str], tmp_path: Path, days: Days, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    base = tmp_path / "base"
    made = [night(str(base), n) for n in range(4)]
    counter = Flaky()
    counter.install(monkeypatch)
    retire(str(shutil.copytree(base, tmp_path / "done")), KEEP_ONE)
    assert counter.calls > 10
    for at in range(1, counter.calls + 1):
        store = shutil.copytree(base, tmp_path / f"killed-{at}")
        Flaky(at, after).install(monkeypatch)
        with pytest.raises(KilledError):
            retire(str(store), KEEP_ONE)
        Flaky().install(monkeypatch)
        for kept in made[2:]:
            open_artifact(store / "bundles" / kept)
        for identity in (made[0], made[1]):  # still whole, or refused: never half a bundle is served
            try:
                roll_back(str(store), identity)
            except ArtifactError:
                continue
            open_artifact(store / "bundles" / identity)
            roll_back(str(store), made[3])
            roll_back(str(store), made[2])
            roll_back(str(store), made[3])
        days.pass_by(1)
        retire(str(store), KEEP_ONE)
        assert bundles_in(store) == set(made[2:])
        assert (read_pointer(str(store))[0] or {})["retiring"] == []


def test_a_bundle_that_is_going_is_neither_rolled_back_to_nor_promoted(
    night: Callable[..., str], tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    made = [night(store, n) for n in range(3)]
    pointer, version = read_pointer(store)
    swap_pointer(store, {**(pointer or {}), "retiring": [made[0]]}, version)
    with pytest.raises(ArtifactError, match=f"{made[0]} is being removed"):
        roll_back(store, made[0])
    champion, version = read_champion(store)
    with pytest.raises(ArtifactError, match="is being removed"):
        promote(store, open_artifact(tmp_path / "bundle-0"), champion, version)
    assert read_pointer(store)[0]["bundle"] == made[2]


def test_whoever_moves_the_champion_first_wins_over_a_removal(
    night: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    made = [night(store, n) for n in range(3)]
    listed = retention._folders

    def overtaken(place: str, kind: str) -> dict:
        roll_back(place, made[0])
        return listed(place, kind)

    monkeypatch.setattr(retention, "_folders", overtaken)
    assert retire(store, KEEP_ONE) == []
    assert bundles_in(store) == set(made)


def test_a_decision_made_before_a_rollback_is_refused(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for n in range(2):
        night(store, n)
    champion, version = read_champion(store)
    roll_back(store)
    with pytest.raises(PointerConflict, match=r"champion\.json is at version"):
        promote(store, open_artifact(tmp_path / "bundle-0"), champion, version)


def test_a_rollback_to_a_bundle_with_a_file_missing_is_refused(night: Callable[..., str], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    first, second = night(store, 0), night(store, 1)
    Path(store, "bundles", first, "deep", "weights").unlink()
    with pytest.raises(ArtifactError, match=f"{first}/deep/weights: no bytes there"):
        roll_back(store)
    assert read_pointer(store)[0]["bundle"] == second


def test_publish_removes_what_the_recipe_no_longer_keeps(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    counts = [
        shop.publish(shop.inputs(hr=0.5 + n / 20, weights=str(n)), store, config=KEEP_ONE).counts["bundles_retired"]
        for n in range(4)
    ]
    assert counts == [0, 0, 1, 1]
    assert len(bundles_in(store)) == 2


def test_how_long_bundles_are_kept_is_no_part_of_a_decision(shop: Shop, tmp_path: Path) -> None:
    store, inputs = tmp_path / "store", shop.inputs()
    shop.publish(inputs, store)
    assert shop.publish(inputs, store, config=KEEP_ONE).counts["champion_changed"] == 0
    assert len(read_history(str(store))) == 1


def test_the_command_line_shows_the_history_and_rolls_back(
    night: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop"):
        store = "gs://shop/bundles"
        assert "no champion is recorded" in run("champion", "history", "--store", store)
        made = [night(store, n) for n in range(3)]
        assert run("rollback", "--store", store).split() == [f"{store}:", "the", "champion", "is", made[1]]
        run("rollback", "--store", store, "--to", made[0])
        lines = [line.split("  ") for line in run("champion", "history", "--store", store).splitlines()[1:]]
        assert [line[-1].strip().split()[-1] for line in lines] == [made[0], made[1], made[2], made[1], made[0]]
        assert [line[0] for line in lines] == [f"2026-01-0{n} 03:00" for n in (4, 4, 3, 2, 1)]
        assert ["rolled back" in "  ".join(line) for line in lines] == [True, True, False, False, False]
        retire(store, KEEP_ONE)
        with pytest.raises(ArtifactError, match="no whole bundle"):
            roll_back(store, "feedfeedfeedfeed")


def test_the_history_of_a_damaged_pointer_is_an_error_that_names_it(tmp_path: Path) -> None:
    swap_pointer(tmp_path, {"bundle": "a", "history": [{"bundle": "a"}]}, 0)
    with pytest.raises(ArtifactError, match=r"champion\.json has a damaged 'history'"):
        read_history(str(tmp_path))


def test_the_history_forgets_its_oldest_entries_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LONGEST", 3)
    pointer: dict = {}
    for n in range(5):
        pointer["history"] = history.extended(pointer, str(n), "promoted")
    assert [reign.bundle for reign in history.reigns(pointer, "here")] == ["2", "3", "4"]


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_encoder_goes_with_the_last_bundle_that_needs_it(
    night: Callable[..., str], shop: Shop, days: Days, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    for number, weights in enumerate("aab"):
        path = start_artifact(tmp_path / f"{number}")
        (path / "metrics.json").write_text("{}")
        (path / "decision.json").write_text(f'{{"n": {number}}}')
        encoder = shop.artifact(f"encoder-{number}", "encoder", {"weights": weights})
        upload_encoder(encoder.path, store, encoder.identity)
        bundle = finish_artifact(path, "bundle", parents={"encoder": encoder})
        upload_bundle(path, store, bundle.identity)
        promote(store, bundle, *read_champion(store))
        for file in Path(store).glob("*/*/*"):
            os.utime(file, (min(file.stat().st_mtime, days.today.timestamp()),) * 2)
        days.pass_by(1)
    encoders = {path.name for path in Path(store, "encoders").iterdir()}
    assert len(encoders) == 2
    assert len(retire(store, KEEP_ONE)) == 1
    assert {path.name for path in Path(store, "encoders").iterdir()} == encoders  # the second bundle's too
    last = night(store, 7)
    retire(store, KEEP_ONE)
    assert bundles_in(store) == {bundle.identity, last}
    assert [path.name for path in Path(store, "encoders").iterdir() if any(path.iterdir())] == [encoder.identity]


def test_an_encoder_that_no_bundle_followed_goes_after_a_day(
    night: Callable[..., str], shop: Shop, days: Days, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    night(store, 1)
    encoder = shop.artifact("lost", "encoder", {"weights": "lost"})
    upload_encoder(encoder.path, store, encoder.identity)
    for file in Path(store, "encoders").glob("*/*"):
        os.utime(file, (days.today.timestamp(),) * 2)
    assert retire(store, KEEP_ONE) == []
    assert any(Path(store, "encoders", encoder.identity).iterdir())
    days.pass_by(2)
    assert retire(store, KEEP_ONE) == []
    assert not list(Path(store, "encoders").glob(f"{encoder.identity}/*"))
