"""Fixtures of the publishing tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bundles import Days, Shop

from onevision.artifacts import finish_artifact, start_artifact, write_json
from onevision.publishing.promotion import promote, read_champion, upload_bundle


@pytest.fixture
def shop(tiny_snapshot: Path, tmp_path: Path) -> Shop:
    return Shop(tiny_snapshot, tmp_path)


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """Everything below a folder that is no temporary or lock file."""

    def read(folder: Path) -> dict[str, bytes]:
        found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {str(p.relative_to(folder)): p.read_bytes() for p in found}

    return read


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Days:
    return Days(monkeypatch)


@pytest.fixture
def night(tmp_path: Path, days: Days) -> Callable[..., str]:
    """Publishes a tiny bundle, and a day goes by; its identity."""

    def publish(store: str, number: int, promoted: bool = True) -> str:
        path = start_artifact(tmp_path / f"bundle-{number}")
        (path / "deep").mkdir()
        (path / "deep" / "weights").write_text(f"{number}")
        for name in ("metrics.json", "decision.json"):
            write_json(path / name, {})
        bundle = finish_artifact(path, "bundle")
        champion, version = read_champion(store)
        place = upload_bundle(path, store, bundle.identity)
        if "://" not in place:
            os.utime(Path(place, "manifest.json"), (days.today.timestamp(),) * 2)
        if promoted:
            promote(store, bundle, champion, version)
        days.pass_by(1)
        return bundle.identity

    return publish
