"""The champion of a bundle store: who becomes it, and that no crash leaves half of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.bundles import Shop
from support.flaky_store import Flaky, KilledError
from support.gcs_emulator import GcsEmulator

from onevision.artifacts import open_artifact, read_json
from onevision.data import store as store_module
from onevision.data.store import PointerConflict, download, read_pointer, swap_pointer
from onevision.errors import ArtifactError
from onevision.publishing import history, promotion
from onevision.publishing.bundle import open_bundle
from onevision.publishing.promotion import fetch_encoder, read_champion, roll_back

Files = Callable[[Path], dict[str, bytes]]


def champion_of(store: Path) -> str | None:
    champion, _ = read_champion(str(store))
    return champion.identity if champion else None


def test_first_bundle_becomes_champion_and_can_be_fetched_whole(shop: Shop, tmp_path: Path) -> None:
    report = shop.publish(shop.inputs(), tmp_path / "store")
    identity = open_artifact(shop.root / "bundle").identity
    assert champion_of(tmp_path / "store") == identity
    assert report.counts["champion_changed"] == 1
    download(str(tmp_path / "store" / "bundles" / identity), tmp_path / "fetched")
    assert open_bundle(tmp_path / "fetched")[0].identity == identity


def test_a_better_challenger_takes_over_and_remembers_whom_it_replaced(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(), store)
    first = champion_of(store)
    shop.publish(shop.inputs(hr=0.6, weights="better"), store)
    pointer, _ = read_pointer(store)
    assert pointer is not None
    assert pointer["bundle"] == open_artifact(shop.root / "bundle").identity != first
    assert pointer["previous"] == first
    assert read_json(shop.root / "bundle/decision.json")["champion"] == first


def test_a_refused_challenger_leaves_the_champion_and_its_decision_is_kept(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(hr=0.6), store)
    before, version = read_pointer(store)
    report = shop.publish(shop.inputs(hr=0.5, weights="worse"), store)
    assert read_pointer(store) == (before, version)
    assert report.counts["champion_changed"] == 0
    refused = store / "bundles" / open_artifact(shop.root / "bundle").identity
    rules = {rule["name"]: rule["passed"] for rule in read_json(refused / "decision.json")["rules"]}
    assert rules["hr@10 loss to champion"] is False
    assert rules["hr@10 of dense"] is True


def test_a_refused_first_challenger_makes_no_champion(shop: Shop, tmp_path: Path) -> None:
    shop.publish(shop.inputs(hr=0.1), tmp_path / "store")
    assert champion_of(tmp_path / "store") is None


def test_publishing_the_same_twice_changes_nothing(shop: Shop, tmp_path: Path, files_of: Files) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(), store)
    shop.publish(shop.inputs(hr=0.6, weights="better"), store, out="second")
    before = files_of(store)
    report = shop.publish(shop.inputs(hr=0.6, weights="better"), store, out="third")
    assert files_of(store) == before
    assert report.counts["champion_changed"] == 0
    assert files_of(shop.root / "second") == files_of(shop.root / "third")


def test_a_champion_measured_on_other_queries_is_not_compared_and_that_is_said(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(hr=0.9), store)
    report = shop.publish(shop.inputs(hr=0.5, weights="new", queries=30), store)
    decision = read_json(shop.root / "bundle/decision.json")
    assert len(decision["rules"]) == 3
    assert "other queries" in decision["note"]
    assert decision["note"] in report.warnings
    assert decision["note"] in (shop.root / "bundle/model_card.md").read_text()


def test_without_a_store_only_the_bundle_is_made(shop: Shop) -> None:
    report = shop.publish(shop.inputs())
    assert report.counts["champion_changed"] == 0
    assert "no store" in report.tables[0].caption


def test_a_damaged_champion_stops_the_publish_instead_of_being_replaced(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(), store)
    shutil.rmtree(store / "bundles")
    with pytest.raises(ArtifactError, match="no whole bundle"):
        shop.publish(shop.inputs(hr=0.6, weights="better"), store)


def test_of_two_publishers_who_race_one_is_told(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(), store)
    original = promotion.upload_bundle

    def overtaken(bundle: Path, place: str, identity: str) -> str:
        pointer, version = read_pointer(store)
        swap_pointer(store, {**(pointer or {}), "by": "another"}, version)
        return original(bundle, place, identity)

    monkeypatch.setattr("onevision.publishing.stage.upload_bundle", overtaken)
    with pytest.raises(PointerConflict):
        shop.publish(shop.inputs(hr=0.6, weights="better"), store)


def test_roll_back_serves_the_bundle_before_and_then_the_one_named(shop: Shop, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shop.publish(shop.inputs(), store)
    first = champion_of(store)
    with pytest.raises(ArtifactError, match="was the first"):
        roll_back(str(store))
    shop.publish(shop.inputs(hr=0.6, weights="better"), store)
    second = champion_of(store)
    assert second is not None
    assert roll_back(str(store)) == first == champion_of(store)
    assert roll_back(str(store), second) == second == champion_of(store)
    with pytest.raises(ArtifactError, match="no whole bundle"):
        roll_back(str(store), "feedfeedfeedfeed")
    with pytest.raises(ArtifactError, match="nothing to roll back"):
        roll_back(str(tmp_path / "empty"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_store_call_leaves_a_whole_champion_and_a_rerun_finishes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_of: Files, after: bool
) -> None:
    monkeypatch.setattr(store_module, "_TRANSFERS", 1)
    monkeypatch.setattr(history, "now", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    base = tmp_path / "base"
    shop.publish(shop.inputs(), base, out="first")
    old = open_artifact(shop.root / "first").identity
    inputs = shop.inputs(hr=0.6, weights="better")
    done = shutil.copytree(base, tmp_path / "done")
    counter = Flaky()
    counter.install(monkeypatch)
    shop.publish(inputs, done, out="second")
    new = open_artifact(shop.root / "second").identity
    assert counter.calls > 10
    for at in range(1, counter.calls + 1):
        store = shutil.copytree(base, tmp_path / f"killed-{at}")
        Flaky(at, after).install(monkeypatch)
        with pytest.raises(KilledError):
            shop.publish(inputs, store)
        Flaky().install(monkeypatch)
        serving = champion_of(store)
        assert serving in (old, new)
        open_bundle(store / "bundles" / str(serving))
        shop.publish(inputs, store)
        assert champion_of(store) == new
        assert files_of(store) == files_of(done)


def test_a_bucket_is_a_bundle_store_as_a_folder_is(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onevision.data.gcs import _client

    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop") as emulator:
        _client.cache_clear()
        store = "gs://shop/nightly"
        report = shop.publish(shop.inputs(), store)
        identity = open_artifact(shop.root / "bundle").identity
        assert report.counts["champion_changed"] == 1
        assert f"nightly/bundles/{identity}/encoder/manifest.json" in emulator.buckets["shop"]
        shop.publish(shop.inputs(hr=0.3, weights="worse"), store)
        champion, _ = read_champion(store)
        assert champion is not None
        assert champion.identity == identity
        download(f"{store}/bundles/{identity}", tmp_path / "fetched")
        open_bundle(tmp_path / "fetched")
    _client.cache_clear()


def test_the_champions_encoder_stays_with_its_pictures_for_the_next_night(shop: Shop, tmp_path: Path) -> None:
    store, inputs = str(tmp_path / "store"), shop.inputs()
    shop.publish(inputs, store)
    bundle = read_champion(store)[0]
    assert bundle is not None
    identity = bundle.parents["encoder"]
    assert fetch_encoder(store, identity, tmp_path / "fetched")
    assert open_artifact(tmp_path / "fetched").identity == identity
    assert (tmp_path / "fetched" / "tokens.safetensors").read_text() == "t"
    assert not fetch_encoder(store, "another", tmp_path / "none")
    shop.publish(shop.measured({**inputs, "encoder": shop.artifact("e2", "encoder", {"x": "2"}).path}, hr=0.1), store)
    assert [path.name for path in Path(store, "encoders").iterdir()] == [identity]  # what is refused sends none
