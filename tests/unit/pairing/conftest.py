"""The tiny shop, paired."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pairing import EXACT, Pairs, Runner
from support.snapshots import Images, Tables, make_tables, save_snapshot

from onevision.pairing.config import PairingConfig
from onevision.pairing.stage import run


@pytest.fixture
def pair(tmp_path: Path) -> Runner:
    """Write tables and pictures as a snapshot, pair it, and read what came out."""
    runs = 0

    def go(tables: Tables, images: Images, config: PairingConfig = EXACT, seed: int = 7) -> Pairs:
        nonlocal runs
        runs += 1
        save_snapshot(tmp_path / f"snapshot{runs}", tables, images)
        out = tmp_path / f"pairs{runs}"
        return Pairs(out, run(snapshot=tmp_path / f"snapshot{runs}", out=out, config=config, seed=seed))

    return go


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """The tiny shop as it is, paired with exact hashes."""
    folder = tmp_path_factory.mktemp("plain")
    save_snapshot(folder / "snapshot", *make_tables())
    return Pairs(folder / "pairs", run(snapshot=folder / "snapshot", out=folder / "pairs", config=EXACT, seed=7))
