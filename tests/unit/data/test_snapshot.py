"""A snapshot is written to the contract, and only a whole and true one is opened."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.gcs_emulator import GcsEmulator
from support.snapshots import AS_OF, make_tables, save_snapshot

from onevision.data.contract import TABLES
from onevision.data.snapshot import Snapshot, write_snapshot
from onevision.data.store import upload
from onevision.errors import ArtifactError, ContractError

NAMES = {"snapshot_id": "s", "source": "test", "as_of": AS_OF}


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    return make_tables(items=8, users=4, queries=6)[0]


def replace_column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def test_tables_pictures_and_names_come_back(tmp_path: Path) -> None:
    tables, images = make_tables(items=8, users=4, queries=6)
    artifact = save_snapshot(tmp_path / "s", tables, images)
    snapshot = Snapshot.open(tmp_path / "s")
    assert all(snapshot.table(name).equals(tables[name]) for name in TABLES)
    assert [(i, snapshot.images.read(i)) for i in snapshot.images.ids] == images
    assert snapshot.as_of == AS_OF
    assert (snapshot.snapshot_id, snapshot.source) == ("tiny-2026-01-13", "folder")
    assert snapshot.artifact.identity == artifact.identity
    assert artifact.counts["items"] == 8
    assert artifact.extra["query_images"] == "known"


def test_same_content_gives_the_same_identity(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    again = {name: table.to_pandas() for name, table in tables.items()}
    first = write_snapshot(tmp_path / "a", tables, [("x", b"1")], **NAMES)
    assert write_snapshot(tmp_path / "b", again, [("x", b"1")], **NAMES).identity == first.identity
    assert write_snapshot(tmp_path / "b", again, [("x", b"2")], **NAMES).identity != first.identity


def test_pandas_frames_are_cast(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    frames = {name: table.to_pandas() for name, table in tables.items()}
    frames["events"]["position"] = frames["events"]["position"].astype(float)  # how pandas holds gaps
    frames["events"].loc[0, ["query_id", "query_image_id", "position"]] = None
    frames["items"]["created_at"] = frames["items"]["created_at"].dt.tz_localize(None).astype("datetime64[ns]")
    frames["items"] = frames["items"][frames["items"].columns[::-1]]
    write_snapshot(tmp_path / "s", frames, [], **NAMES)
    snapshot = Snapshot.open(tmp_path / "s")
    assert snapshot.table("items").equals(tables["items"])
    assert snapshot.table("events")["position"][0].as_py() is None


def test_a_photo_of_something_unknown_is_said_in_the_manifest(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    images = tables["images"].to_pandas()
    images.loc[images["view"] == "user_photo", "item_id"] = None
    assert write_snapshot(tmp_path, tables | {"images": images}, [], **NAMES).extra["query_images"] == "unknown"


def test_users_may_be_left_out_and_are_written_empty(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    del tables["users"]
    write_snapshot(tmp_path, tables, [], **NAMES)
    assert Snapshot.open(tmp_path).table("users").num_rows == 0


def test_further_files_stay_inside(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    extra = {"oracle.json": {"ceiling": 1.0}, "quarantine/items.parquet": pa.table({"reason": ["why"]})}
    artifact = write_snapshot(tmp_path / "s", tables, [], **NAMES, extra_files=extra, extra={"made_by": "test"})
    assert json.loads(artifact.file("oracle.json").read_text()) == {"ceiling": 1.0}
    assert pq.read_table(artifact.file("quarantine/items.parquet"))["reason"].to_pylist() == ["why"]
    assert artifact.extra["made_by"] == "test"
    for name in ("../out.json", "items.parquet", "/tmp/out.json"):
        with pytest.raises(ContractError, match="free name inside"):
            write_snapshot(tmp_path / "s", tables, [], **NAMES, extra_files={name: {}})


# what the writer refuses


def test_a_missing_table_or_column_is_named(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    with pytest.raises(ContractError, match="table 'events' is missing"):
        write_snapshot(tmp_path, {n: t for n, t in tables.items() if n != "events"}, [], **NAMES)
    with pytest.raises(ContractError, match=r"table 'items' has no column 'price' \(double: in the shop's currency\)"):
        write_snapshot(tmp_path, tables | {"items": tables["items"].drop_columns(["price"])}, [], **NAMES)
    with pytest.raises(ContractError, match=r"no table 'itmes' in the contract; the tables are categories, items"):
        write_snapshot(tmp_path, tables | {"itmes": tables["items"]}, [], **NAMES)
    extra = tables["items"].append_column("colour", pa.nulls(8, pa.string()))
    with pytest.raises(ContractError, match="unknown column 'colour'"):
        write_snapshot(tmp_path, tables | {"items": extra}, [], **NAMES)


def test_a_value_that_does_not_fit_is_named_by_its_row(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    prices = pa.array(["1.5"] * 6 + ["cheap", "2"])
    with pytest.raises(ContractError, match=r"'items', column 'price', row 6: 'cheap' \(string\) is not a double"):
        write_snapshot(tmp_path, tables | {"items": replace_column(tables["items"], "price", prices)}, [], **NAMES)
    prices = pa.array([1.5] * 7 + [None])
    with pytest.raises(ContractError, match="'items', column 'price', row 7: null"):
        write_snapshot(tmp_path, tables | {"items": replace_column(tables["items"], "price", prices)}, [], **NAMES)
    frame = tables["items"].to_pandas()
    frame["title"] = ["text", 5, *frame["title"][2:]]
    with pytest.raises(ContractError, match="'items': a column mixes types"):
        write_snapshot(tmp_path, tables | {"items": frame}, [], **NAMES)


def test_a_folder_with_other_content_is_not_overwritten(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(ContractError, match=r"thesis\.txt"):
        write_snapshot(tmp_path, tables, [], **NAMES)
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(ContractError, match="not overwritten"):
        write_snapshot(tmp_path, tables, [], **NAMES)
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


def test_a_half_written_snapshot_is_replaced(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    def pictures():
        yield "a", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_snapshot(tmp_path, tables, pictures(), **NAMES)
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        Snapshot.open(tmp_path)
    write_snapshot(tmp_path, tables, [("a", b"1")], **NAMES)
    assert Snapshot.open(tmp_path).images.ids == ["a"]


# what the reader refuses


def rewrite(folder: Path, table: str, change: pa.Table) -> None:
    """Replace a table and make the manifest true again, as another tool's writer would."""
    from onevision.artifacts import finish_artifact, open_artifact

    extra = open_artifact(folder).extra
    pq.write_table(change, folder / f"{table}.parquet")
    finish_artifact(folder, "snapshot", extra=extra)


def test_an_altered_file_is_refused(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], **NAMES)
    path = tmp_path / "items.parquet"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"items\.parquet: its checksum differs"):
        Snapshot.open(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"items\.parquet: named in the manifest but missing"):
        Snapshot.open(tmp_path, verify=False)


def test_a_table_of_another_shape_is_refused(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], **NAMES)
    rewrite(tmp_path, "items", tables["items"].drop_columns(["in_stock"]))
    with pytest.raises(ContractError, match=r"items\.parquet: table 'items' has no column 'in_stock' \(bool: whether"):
        Snapshot.open(tmp_path)
    rewrite(tmp_path, "items", replace_column(tables["items"], "price", tables["items"]["price"].cast(pa.string())))
    with pytest.raises(ContractError, match="column 'price': type string, the contract says double"):
        Snapshot.open(tmp_path)


def test_a_missing_table_is_refused(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], **NAMES)
    (tmp_path / "users.parquet").unlink()
    rewrite_items = pq.read_table(tmp_path / "items.parquet")
    with pytest.raises(ArtifactError, match="users"):
        Snapshot.open(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["files"]["users.parquet"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    rewrite(tmp_path, "items", rewrite_items)
    with pytest.raises(ContractError, match=r"users\.parquet: the snapshot has no table 'users' \(Who shops"):
        Snapshot.open(tmp_path)


def test_a_manifest_without_a_date_is_refused(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], **NAMES, extra={"as_of": "yesterday"})
    with pytest.raises(ContractError, match="as_of is 'yesterday', not an ISO time"):
        Snapshot.open(tmp_path)
    write_snapshot(tmp_path, tables, [], **NAMES, extra={"snapshot_id": None})
    with pytest.raises(ContractError, match="snapshot_id is None"):
        Snapshot.open(tmp_path)


def test_a_date_without_a_zone_is_utc(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], snapshot_id="s", source="t", as_of=datetime(2026, 1, 13))
    assert Snapshot.open(tmp_path).as_of == datetime(2026, 1, 13, tzinfo=UTC)


def test_nulls_where_none_may_be_are_found_when_the_table_is_read(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    write_snapshot(tmp_path, tables, [], **NAMES)
    holed = pd.DataFrame({"category_id": ["a", None], "name": ["x", "y"], "parent_id": [None, "a"]})
    rewrite(tmp_path, "categories", pa.Table.from_pandas(holed, preserve_index=False))
    with pytest.raises(ContractError, match="'categories', column 'category_id', row 1: null"):
        Snapshot.open(tmp_path).table("categories")


def test_a_snapshot_in_a_bucket_is_fetched_once(
    tmp_path: Path, tables: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEVISION_CACHE", str(tmp_path / "cache"))
    local = write_snapshot(tmp_path / "s", tables, [("a", b"1")], **NAMES)
    with GcsEmulator("shop") as gcs:
        upload(tmp_path / "s", "gs://shop/days/1")
        first = Snapshot.open("gs://shop/days/1")
        assert first.artifact.identity == local.identity
        assert first.images.read("a") == b"1"
        gcs.calls.clear()
        assert Snapshot.open("gs://shop/days/1").path == first.path
        assert not [path for _, path in gcs.calls if path.endswith(".parquet")]
        (first.path / "items.parquet").unlink()
        assert Snapshot.open("gs://shop/days/1").table("items").num_rows == 8
