"""A shop's own folder becomes a snapshot; every row that does not fit is set aside with its number and the reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import make_tables

from onevision.data.folder import import_folder
from onevision.data.rows import cast_values
from onevision.data.snapshot import Snapshot
from onevision.errors import ContractError

Frames = dict[str, pd.DataFrame]


@pytest.fixture
def frames() -> Frames:
    tables = make_tables(items=8, users=4, queries=8)[0]
    frames = {name: table.to_pandas() for name, table in tables.items()}
    frames["images"]["path"] = "pictures/" + frames["images"]["image_id"] + ".jpg"
    return frames


@pytest.fixture
def shop(tmp_path: Path, frames: Frames) -> Path:
    return write_shop(tmp_path / "shop", frames)


def write_shop(folder: Path, frames: Frames, kind: str = "csv") -> Path:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for image_id, data in make_tables(items=8, users=4, queries=8)[1]:
        (folder / "pictures" / f"{image_id}.jpg").write_bytes(data)
    for name, frame in frames.items():
        path = folder / f"{name}.{kind}"
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
    return folder


def append(shop: Path, table: str, *lines: str) -> None:
    with (shop / f"{table}.csv").open("a") as stream:
        stream.writelines(line + "\n" for line in lines)


def reasons(out: Path, table: str) -> list[str]:
    return pq.read_table(out / "quarantine" / f"{table}.parquet")["reason"].to_pylist()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_clean_folder_comes_back_whole(tmp_path: Path, frames: Frames, kind: str) -> None:
    report = import_folder(write_shop(tmp_path / "shop", frames, kind), tmp_path / "out")
    snapshot = Snapshot.open(tmp_path / "out")
    for name, table in make_tables(items=8, users=4, queries=8)[0].items():
        assert snapshot.table(name).equals(table)
        counts = [report.counts[f"{name}_{what}"] for what in ("in", "out", "quarantined")]
        assert counts == [table.num_rows, table.num_rows, 0]
    for image_id in snapshot.images.ids:
        assert snapshot.images.read(image_id) == (tmp_path / "shop" / "pictures" / f"{image_id}.jpg").read_bytes()
    assert snapshot.source == "folder"
    assert snapshot.as_of == frames["events"]["ts"].max()
    assert report.warnings == []


def test_the_same_folder_gives_the_same_snapshot(tmp_path: Path, shop: Path) -> None:
    for out in ("a", "b"):
        import_folder(shop, tmp_path / out)
    assert Snapshot.open(tmp_path / "a").artifact.identity == Snapshot.open(tmp_path / "b").artifact.identity


def test_what_is_left_out_has_sensible_defaults(tmp_path: Path, frames: Frames) -> None:
    del frames["users"]
    frames["items"] = frames["items"][["item_id", "category_id", "price"]]
    frames["images"] = frames["images"].drop(columns="created_at")
    frames["events"]["ts"] = frames["events"]["ts"].dt.strftime("%Y-%m-%d %H:%M:%S")  # no zone: UTC
    report = import_folder(write_shop(tmp_path / "shop", frames), tmp_path / "out")
    snapshot = Snapshot.open(tmp_path / "out")
    first = min(snapshot.table("events")["ts"].to_pylist())
    items = snapshot.table("items").to_pandas()
    assert items["in_stock"].all()
    assert (items["created_at"] == first).all()
    assert items["brand"].isna().all()
    events = snapshot.table("events").to_pandas()
    images = snapshot.table("images").to_pandas().set_index("image_id")
    searched = events.groupby("query_image_id")["ts"].min()
    assert (images.loc[searched.index, "created_at"] == searched).all()
    assert (images.loc[images["view"] == "main", "created_at"] == first).all()
    users = snapshot.table("users").to_pandas().set_index("user_id")["created_at"]
    assert users.equals(events.groupby("user_id")["ts"].min().rename("created_at").astype(users.dtype))
    assert any("derived from events" in warning for warning in report.warnings)


def test_an_empty_cell_takes_the_default_of_its_column(tmp_path: Path, shop: Path) -> None:
    append(shop, "items", "i900,,c0,,5,,")
    import_folder(shop, tmp_path / "out")
    row = Snapshot.open(tmp_path / "out").table("items").to_pylist()[-1]
    assert (row["in_stock"], row["created_at"], row["title"]) == (True, datetime(2026, 1, 1, tzinfo=UTC), None)


def test_a_column_that_is_not_in_the_contract_is_told(tmp_path: Path, frames: Frames) -> None:
    frames["items"]["colour"] = "red"
    report = import_folder(write_shop(tmp_path / "shop", frames), tmp_path / "out")
    assert report.warnings == ["items.csv: column 'colour' is not in the contract and was not taken"]


def test_the_date_may_be_given_and_later_events_are_set_aside(tmp_path: Path, shop: Path, frames: Frames) -> None:
    date = datetime(2026, 1, 8)
    report = import_folder(shop, tmp_path / "out", as_of=date, snapshot_id="mine")
    snapshot = Snapshot.open(tmp_path / "out")
    assert snapshot.as_of == date.replace(tzinfo=UTC)
    assert snapshot.snapshot_id == "mine"
    late = int((frames["events"]["ts"] > snapshot.as_of).sum())
    assert report.counts["events_quarantined"] == late > 0
    assert "ts is after the snapshot's date" in reasons(tmp_path / "out", "events")[0]


# rows that do not fit


def test_bad_rows_are_set_aside_with_number_and_reason(tmp_path: Path, shop: Path) -> None:
    append(
        shop,
        "items",
        "i901,t,c0,b,cheap,True,2026-01-01",  # row 10: 8 items and the header stand before it
        "i902,t,c0,b,nan,True,2026-01-01",
        "i903,t,c0,b,1,perhaps,2026-01-01",
        "i904,t,c0,b,1,True,01/02/2026",
        ",t,c0,b,1,True,2026-01-01",
        "i905,t,,b,1,True,2026-01-01",
        "i906,t,c0",
        "",
        "i001,t,c0,b,1,True,2026-01-01",
        '"i907","two\nlines",c0,b,1,True,2026-01-01T10:00:00+02:00',
        "i908,t,c0,b,,True,2026-01-01",
    )
    report = import_folder(shop, tmp_path / "out")
    assert reasons(tmp_path / "out", "items") == [
        "row 10: price 'cheap' is not a finite number",
        "row 11: price 'nan' is not a finite number",
        "row 12: in_stock 'perhaps' is not true or false",
        "row 13: created_at '01/02/2026' is not an ISO 8601 time",
        "row 14: item_id is empty",
        "row 15: category_id is empty",
        "row 16: not 7 fields",
        "row 18: item_id 'i001' was seen in row 3",
        "row 20: price is empty",
    ]
    aside = pq.read_table(tmp_path / "out" / "quarantine" / "items.parquet").to_pylist()
    assert aside[0] | {"reason": ""} == {
        "item_id": "i901",
        "title": "t",
        "category_id": "c0",
        "brand": "b",
        "price": "cheap",
        "in_stock": "True",
        "created_at": "2026-01-01",
        "text": None,
        "row": 10,
        "reason": "",
    }
    assert aside[6]["text"] == "i906,t,c0"
    kept = Snapshot.open(tmp_path / "out").table("items").to_pylist()
    assert kept[-1]["title"] == "two\nlines"
    assert kept[-1]["created_at"] == datetime(2026, 1, 1, 8, tzinfo=UTC)
    counts = [report.counts[f"items_{what}"] for what in ("in", "out", "quarantined")]
    assert counts == [18, 9, 9]
    assert report.tables[0].rows[0] == ["items", "row 10: price 'cheap' is not a finite number"]


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_bad_pictures_are_set_aside_with_the_reason(tmp_path: Path, shop: Path) -> None:
    whole = (shop / "pictures" / "p0000.jpg").read_bytes()
    (tmp_path / "secret.jpg").write_bytes(whole)
    (shop / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (shop / "short.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (shop / "text.jpg").write_text("hello")
    (shop / "bomb.png").write_bytes(png(30_000, 30_000))
    (shop / "large.png").write_bytes(png(9_000, 9_000))
    (shop / "empty.jpg").write_bytes(b"")
    with (shop / "heavy.jpg").open("wb") as stream:
        stream.truncate(2**30)  # takes no room on disk
    expected = {
        "../secret.jpg": "leads out of the folder",
        str(tmp_path / "secret.jpg"): "leads out of the folder",
        "link.jpg": "leads out of the folder",
        "gone.jpg": "no such file",
        "pictures": "no such file",
        "short.jpg": "truncated",
        "text.jpg": "not an image",
        "empty.jpg": "not an image",
        "bomb.png": "over the cap",
        "large.png": "9000 x 9000 pixels, over the cap of 50,000,000",
        "heavy.jpg": "1,073,741,824 bytes, over the cap of 67,108,864",
        "": "path is empty",
    }
    append(shop, "images", *(f"x{n},i001,main,2026-01-01,{path}" for n, path in enumerate(expected)))
    report = import_folder(shop, tmp_path / "out")
    got = reasons(tmp_path / "out", "images")
    assert len(got) == len(expected) == report.counts["images_quarantined"]
    for (path, reason), said in zip(expected.items(), got, strict=True):
        assert reason in said
        assert path in said
    snapshot = Snapshot.open(tmp_path / "out")
    assert sorted(snapshot.images.ids) == sorted(snapshot.table("images")["image_id"].to_pylist())


def test_a_repeated_image_id_keeps_the_first_usable_picture(tmp_path: Path, shop: Path) -> None:
    append(shop, "images", "x,i001,main,2026-01-01,gone.jpg", "x,i001,main,2026-01-01,pictures/p0001.jpg")
    append(shop, "images", "x,i001,main,2026-01-01,pictures/p0002.jpg")
    import_folder(shop, tmp_path / "out")
    assert Snapshot.open(tmp_path / "out").images.read("x") == (shop / "pictures" / "p0001.jpg").read_bytes()
    assert len(reasons(tmp_path / "out", "images")) == 2


def test_typed_parquet_columns_are_taken_as_they_are_meant(tmp_path: Path, frames: Frames) -> None:
    frames["images"]["item_id"] = frames["images"]["item_id"].str[1:].astype(float)  # integer keys with gaps
    frames["images"].loc[frames["images"]["view"] == "video_frame", "item_id"] = None
    frames["items"]["item_id"] = frames["items"]["item_id"].str[1:].astype(int)
    frames["events"]["item_id"] = frames["events"]["item_id"].str[1:].astype(int)
    frames["events"]["position"] = frames["events"]["position"].astype(float)
    frames["items"]["price"] = frames["items"]["price"].round().astype(int)
    import_folder(write_shop(tmp_path / "shop", frames, "parquet"), tmp_path / "out")
    snapshot = Snapshot.open(tmp_path / "out")
    assert snapshot.table("items")["item_id"].to_pylist() == [str(n) for n in range(8)]
    assert set(snapshot.table("images")["item_id"].to_pylist()) == {None, *(str(n) for n in range(8))}


def test_parquet_rows_count_from_one(tmp_path: Path, frames: Frames) -> None:
    frames["items"].loc[2, "price"] = float("inf")
    import_folder(write_shop(tmp_path / "shop", frames, "parquet"), tmp_path / "out")
    assert reasons(tmp_path / "out", "items") == ["row 3: price inf is not a finite number"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-9, 9).map(str), st.sampled_from(["x", "", "1e400", "0x1"]))))
def test_casting_splits_values_into_cast_missing_and_bad(values: list[str | None]) -> None:
    cast, bad = cast_values(pa.array(values, pa.string()), pa.float64())
    for value, got, wrong in zip(values, cast.to_pylist(), bad, strict=True):
        number = value is not None and value.lstrip("-").isdigit()
        assert got == (float(value) if number else None)
        assert wrong == (value is not None and not number)


# what stops the import


def drop(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.drop(columns=column)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("items", drop("price"), r"items\.csv: no column 'price' \(double: in the shop's currency\); it has item_id,"),
        ("images", drop("path"), r"images\.csv: no column 'path' \(string: the picture's file, relative"),
        ("events", drop("event_type"), r"events\.csv: no column 'event_type'"),
        ("events", lambda frame: frame[:0], r"events\.csv: no row fits the contract \(it is empty\)"),
        ("items", lambda frame: frame.assign(price="x"), r"items\.csv: no row fits the contract \(row 2: price 'x'"),
    ],
)
def test_a_table_that_cannot_be_used_stops_the_import(
    tmp_path: Path, frames: Frames, table: str, change: Callable, message: str
) -> None:
    frames[table] = change(frames[table])
    with pytest.raises(ContractError, match=message):
        import_folder(write_shop(tmp_path / "shop", frames), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_or_doubtful_file_stops_the_import(tmp_path: Path, shop: Path) -> None:
    (shop / "events.csv").rename(shop / "clicks.csv")
    with pytest.raises(ContractError, match=r"no events\.csv or events\.parquet .*its columns are event_id, ts"):
        import_folder(shop, tmp_path / "out")
    (shop / "clicks.csv").rename(shop / "events.csv")
    pd.DataFrame({"a": [1]}).to_parquet(shop / "items.parquet")
    with pytest.raises(ContractError, match=r"holds both items\.parquet and items\.csv"):
        import_folder(shop, tmp_path / "out")
    with pytest.raises(ContractError, match="no such folder"):
        import_folder(shop / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("items.csv", b"item_id,category_id,price\n\xff\xfe,c0,1\n", "not a comma-separated UTF-8 file"),
        ("items.csv", b"", "not a comma-separated UTF-8 file"),
        ("items.csv", b"item_id;category_id;price\na;c0;1\n", "no column 'item_id'.*it has item_id;category_id;price"),
        ("items.csv", b"item_id,item_id,price\na,b,1\n", "column 'item_id' stands there twice"),
        ("items.parquet", b"PAR1 no", "not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_stops_the_import(
    tmp_path: Path, shop: Path, name: str, data: bytes, message: str
) -> None:
    (shop / "items.csv").unlink()
    (shop / name).write_bytes(data)
    with pytest.raises(ContractError, match=message):
        import_folder(shop, tmp_path / "out")


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_times_as_numbers_stop_the_import_whatever_they_count(tmp_path: Path, frames: Frames, unit: int) -> None:
    frames["events"]["ts"] = [(1_700_000_000 + n) * unit for n in range(len(frames["events"]))]
    with pytest.raises(ContractError, match=r"column 'ts' has type int64.*ISO 8601"):
        import_folder(write_shop(tmp_path / "shop", frames, "parquet"), tmp_path / "out")


def test_a_column_of_lists_stops_the_import(tmp_path: Path, frames: Frames) -> None:
    frames["items"]["price"] = [[1.0, 2.0]] * 8
    with pytest.raises(ContractError, match=r"column 'price' has type list<.*>, which cannot become double"):
        import_folder(write_shop(tmp_path / "shop", frames, "parquet"), tmp_path / "out")


def test_the_source_is_never_overwritten(tmp_path: Path, shop: Path) -> None:
    for out in (shop, tmp_path):
        with pytest.raises(ContractError, match="would delete"):
            import_folder(shop, out)
    import_folder(shop, shop / "snapshot")
    assert (shop / "items.csv").exists()
