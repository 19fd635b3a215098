"""A snapshot cut at an earlier date: the same shop, and nothing of what came later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.compute as pc
import pytest
from support.snapshots import AS_OF

from onevision.artifacts import open_artifact
from onevision.data.config import SnapshotConfig
from onevision.data.days import cut_snapshot
from onevision.data.snapshot import Snapshot
from onevision.data.synthetic import write_synthetic_snapshot
from onevision.errors import ContractError

CONFIG = SnapshotConfig(
    items=90, users=20, days=16, queries=120, image_size=32, cold_days=12, cold_item_share=0.4, season=1.0
)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    """Three days of one synthetic shop, and the shop at the end of its log."""
    root = tmp_path_factory.mktemp("days")
    write_synthetic_snapshot(root / "last", CONFIG, 7)
    whole = Snapshot.open(root / "last")
    for before in (3, 2, 1):
        cut_snapshot(whole.path, root / str(before), whole.as_of - timedelta(days=before))
    return [Snapshot.open(root / name) for name in ("3", "2", "1", "last")]


@pytest.mark.parametrize("table", ["items", "images", "users", "events"])
def test_the_next_day_keeps_every_row_and_adds_some(days: list[Snapshot], table: str) -> None:
    for day, following in pairwise(days):
        rows, later = (shop.table(table).to_pylist() for shop in (day, following))
        kept = [row for row in later if row in rows]
        assert kept == rows
        assert len(later) > len(rows) or table in ("items", "users")  # a day may bring none
    assert table == "users" or len(days[0].table(table)) < len(days[-1].table(table))


def test_pictures_keep_their_bytes(days: list[Snapshot]) -> None:
    ids = days[0].table("images")["image_id"].to_pylist()
    assert sorted(days[0].images.ids) == sorted(ids)
    assert list(days[0].images.read_many(ids)) == list(days[-1].images.read_many(ids))


def test_nothing_is_later_than_the_day(days: list[Snapshot]) -> None:
    for day in days:
        assert pc.max(day.table("events")["ts"]).as_py() <= day.as_of
        assert pc.max(day.table("items")["created_at"]).as_py() <= day.as_of
        assert set(day.table("events")["item_id"].to_pylist()) <= set(day.table("items")["item_id"].to_pylist())


def test_a_cut_has_a_name_of_its_own_and_the_same_bytes_again(days: list[Snapshot], tmp_path: Path) -> None:
    assert len({day.snapshot_id for day in days}) == len(days)
    cut_snapshot(days[-1].path, tmp_path / "again", days[0].as_of)
    assert open_artifact(tmp_path / "again").identity == days[0].artifact.identity


def test_a_date_that_the_source_does_not_reach_beyond_is_refused(tiny_snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="can be cut at an earlier date only"):
        cut_snapshot(tiny_snapshot, tmp_path / "out", AS_OF)
    with pytest.raises(ContractError, match="no event up to"):
        cut_snapshot(tiny_snapshot, tmp_path / "out", datetime(2020, 1, 1, tzinfo=UTC))


def test_seasons_change_what_is_searched_for_and_not_what_there_is(tmp_path: Path) -> None:
    shops = []
    for season in (0.0, 3.0):
        write_synthetic_snapshot(tmp_path / str(season), CONFIG.model_copy(update={"season": season}), 7)
        shops.append(Snapshot.open(tmp_path / str(season)))
    assert shops[0].table("items").equals(shops[1].table("items"))
    assert not shops[0].table("events").equals(shops[1].table("events"))
