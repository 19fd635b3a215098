"""Publishing to a bucket over HTTP, cut off at every request: what is served is whole, and a rerun finishes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from support.gcs_emulator import ApiError, GcsEmulator

from onevision.artifacts import open_artifact
from onevision.data import store as store_module
from onevision.data.store import PointerConflict, StoreError, download
from onevision.publishing.config import PublishingConfig
from onevision.publishing.promotion import promote, read_champion, upload_bundle
from onevision.publishing.retention import retire

STORE = "gs://shop/nightly"


def publish(bundle: Path) -> None:
    artifact = open_artifact(bundle)
    champion, version = read_champion(STORE)
    upload_bundle(bundle, STORE, artifact.identity)
    promote(STORE, artifact, champion, version)
    retire(STORE, PublishingConfig(keep_bundles=1, keep_champion_days=0))


@pytest.mark.parametrize("place", ["intercept", "after"], ids=["before", "after"])
def test_cut_off_at_any_request_the_champion_is_whole_and_a_rerun_finishes(
    night: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    monkeypatch.setattr(store_module, "_TRANSFERS", 1)
    with GcsEmulator("shop", "aside") as gcs:
        retired, old = night(STORE, 0), night(STORE, 1)
        before = copy.deepcopy(gcs.buckets["shop"])
        new = night("gs://aside", 2)
        seen: list[str] = []
        setattr(gcs, place, lambda method, path: seen.append(path))
        publish(tmp_path / "bundle-2")
        requests = len(seen)
        finished = set(gcs.buckets["shop"])
        assert requests > 12
        assert not any(retired in name for name in finished)
        for at in range(requests):
            gcs.buckets["shop"] = copy.deepcopy(before)
            left = iter(range(at))

            def cut(method: str, path: str, left: object = left) -> None:
                if next(left, None) is None:
                    raise ApiError(403, "cut off")

            setattr(gcs, place, cut)
            with pytest.raises(StoreError, match="gs://shop/nightly"):
                publish(tmp_path / "bundle-2")
            setattr(gcs, place, lambda method, path: None)
            champion, _ = read_champion(STORE)
            assert champion is not None
            assert champion.identity in (old, new)
            download(f"{STORE}/bundles/{champion.identity}", tmp_path / f"{place}-{at}")
            publish(tmp_path / "bundle-2")
            assert set(gcs.buckets["shop"]) == finished


def test_of_two_who_publish_at_once_one_wins_and_the_other_is_told(
    night: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop", "aside"):
        night(STORE, 0)
        bundles = [open_artifact(tmp_path / f"bundle-{n}") for n in (1, 2) if night("gs://aside", n)]
        champion, version = read_champion(STORE)
        for bundle in bundles:
            upload_bundle(bundle.path, STORE, bundle.identity)
        assert promote(STORE, bundles[0], champion, version)
        with pytest.raises(PointerConflict, match=r"champion\.json is at version"):
            promote(STORE, bundles[1], champion, version)
        assert read_champion(STORE)[0].identity == bundles[0].identity
