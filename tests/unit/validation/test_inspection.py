"""Promises of the rules: each kind of bad row is set aside, under the right reason, and good rows are not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damage import altered
from support.snapshots import AS_OF, Tables, make_tables

from onevision.data.contract import TABLES
from onevision.validation.inspection import Inspection

TOMORROW = AS_OF + timedelta(days=1)
SPARE = {"item_id": "i999", "title": None, "category_id": "c0", "brand": None, "price": 1.0, "in_stock": True}
SPARE |= {"created_at": AS_OF - timedelta(days=12)}


@pytest.fixture
def inspect(tmp_path: Path):
    def go(tables: Tables, bad_pictures: dict[str, str] | None = None) -> Inspection:
        for name, table in tables.items():
            pq.write_table(table, tmp_path / TABLES[name].file)
        inspection = Inspection(tmp_path, AS_OF, bad_pictures or {}, memory_gb=1)
        inspection.set_bad_rows_aside()
        return inspection

    return go


def aside(inspection: Inspection, table: str, tmp_path: Path) -> list[dict[str, Any]]:
    inspection.write_aside(table, tmp_path / "aside.parquet")
    return pq.read_table(tmp_path / "aside.parquet").to_pylist()


def appended(table: pa.Table, *rows: dict[str, Any]) -> pa.Table:
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in table.schema}
    return pa.concat_tables([nullable(table), pa.table(columns)])


def nullable(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))


def test_sound_shop_loses_no_row(inspect) -> None:
    inspection = inspect(make_tables()[0])
    assert inspection.findings() == []
    assert inspection.warning_findings() == []


BAD_ROWS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "items": [
        ({"price": None}, "null: price"),
        ({"price": float("nan")}, "not a number: price nan"),
        ({"price": float("inf")}, "not a number: price inf"),
        ({"price": -2.5}, "below minimum: price -2.5, at least 0"),
        ({"category_id": "shoes"}, "unknown reference: category_id shoes is in no row of categories.category_id"),
        ({"category_id": "d0"}, "not a leaf: category_id d0 has categories below it"),
        ({"created_at": TOMORROW}, "future: created_at 2026-01-14 00:00:00+00, the snapshot is of 2026-01-13"),
        ({"item_id": "i000"}, "duplicate: item_id i000 stands in an earlier row"),
        ({"item_id": None}, "null: item_id"),
    ],
    "images": [
        ({"view": "side"}, "not allowed: view side, allowed are main, sku, user_photo, video_frame"),
        ({"item_id": "i777"}, "unknown reference: item_id i777 is in no row of items.item_id"),
        ({"image_id": "p0000"}, "duplicate: image_id p0000 stands in an earlier row"),
        ({"created_at": TOMORROW}, "future: created_at"),
    ],
    "users": [
        ({"user_id": "u00"}, "duplicate: user_id u00 stands in an earlier row"),
        ({"created_at": None}, "null: created_at"),
    ],
    "events": [
        ({"ts": TOMORROW}, "future: ts 2026-01-14"),
        ({"ts": None}, "null: ts"),
        ({"item_id": "i777"}, "unknown reference: item_id i777 is in no row of items.item_id"),
        ({"user_id": "nobody"}, "unknown reference: user_id nobody is in no row of users.user_id"),
        ({"query_image_id": "p9"}, "unknown reference: query_image_id p9 is in no row of images.image_id"),
        ({"event_type": "view"}, "not allowed: event_type view, allowed are impression, click, cart, order"),
        ({"position": 0}, "below minimum: position 0, at least 1"),
        ({"event_id": "e00000"}, "duplicate: event_id e00000 stands in an earlier row"),
    ],
}


def test_each_bad_row_is_set_aside_with_its_reason_and_no_other_is(inspect, tmp_path: Path) -> None:
    sound, _ = make_tables()
    tables = dict(sound)
    for name, bad in BAD_ROWS.items():
        good_row = sound[name].slice(0, 1).to_pylist()[0]
        rows = [{**good_row, TABLES[name].key: f"bad{place}", **values} for place, (values, _) in enumerate(bad)]
        tables[name] = appended(sound[name], *rows)
    inspection = inspect(tables)
    for name, bad in BAD_ROWS.items():
        faults = aside(inspection, name, tmp_path)
        assert len(faults) == len(bad)
        for row, (values, reason) in zip(faults, bad, strict=True):
            assert row["reason"].startswith(reason)
            assert all(row[column] == value or value != value for column, value in values.items())
        inspection.write_left(name, tmp_path / "left.parquet")
        assert pq.read_table(tmp_path / "left.parquet") == sound[name]
    assert all(inspection.violations(rule) == 0 for rule in inspection.quarantine_rules)


@pytest.mark.parametrize(
    ("row", "parent", "reasons"),
    [
        (2, "nowhere", {"c0": "unknown reference: parent_id nowhere is in no row of categories.category_id"}),
        (2, "c0", {"c0": "cycle: parent_id c0 is below its own child"}),
        (
            0,
            "c0",
            {
                "d0": "cycle: parent_id c0 is below its own child",
                "c0": "cycle: parent_id d0 is below its own child",
                "c1": "points at a row set aside: parent_id d0 was set aside from categories",
            },
        ),
    ],
)
def test_broken_tree_is_set_aside(inspect, tmp_path: Path, row: int, parent: str, reasons: dict[str, str]) -> None:
    tables, _ = make_tables()
    inspection = inspect(tables | {"categories": altered(tables["categories"], row, parent_id=parent)})
    found = {r["category_id"]: r["reason"] for r in aside(inspection, "categories", tmp_path)}
    assert found == reasons


def test_nulls_where_they_may_be_are_no_fault(inspect) -> None:
    tables, _ = make_tables()
    events = altered(tables["events"], 7, query_id=None, query_image_id=None, position=None)
    images = altered(tables["images"], tables["images"].num_rows - 1, item_id=None)
    assert inspect(tables | {"events": events, "images": images}).findings() == []


def test_first_good_row_of_a_repeated_key_stays(inspect, tmp_path: Path) -> None:
    tables, _ = make_tables()
    bad_first = {**SPARE, "price": -1.0}
    items = appended(tables["items"], bad_first, {**SPARE, "price": 2.0}, {**SPARE, "price": 3.0})
    images = appended(
        tables["images"],
        {"image_id": "p999", "item_id": "i999", "view": "main", "created_at": AS_OF - timedelta(days=12)},
    )
    rows = aside(inspect(tables | {"items": items, "images": images}), "items", tmp_path)
    assert [(row["price"], row["reason"].split(":")[0]) for row in rows] == [
        (-1.0, "below minimum"),
        (3.0, "duplicate"),
    ]


def test_rows_that_point_at_rows_set_aside_follow_them(inspect, tmp_path: Path) -> None:
    tables, _ = make_tables()
    inspection = inspect(tables | {"items": altered(tables["items"], 4, price=None)})
    gone = {row["image_id"] for row in aside(inspection, "images", tmp_path)}
    assert gone == set(tables["images"].to_pandas().query("item_id == 'i004'")["image_id"])
    events = aside(inspection, "events", tmp_path)
    assert {row["reason"] for row in events} >= {"points at a row set aside: item_id i004 was set aside from items"}
    assert all(row["item_id"] == "i004" or row["query_image_id"] in gone for row in events)
    left = tables["events"].num_rows - len(events)
    assert inspection.rows_left("events") == left


def test_event_whose_photo_is_bad_is_set_aside(inspect, tmp_path: Path) -> None:
    tables, _ = make_tables()
    photo = tables["events"]["query_image_id"][0].as_py()
    inspection = inspect(tables, {photo: "truncated or damaged JPEG picture"})
    assert [row["reason"] for row in aside(inspection, "images", tmp_path)] == [
        f"bad picture: image_id {photo} truncated or damaged JPEG picture"
    ]
    events = aside(inspection, "events", tmp_path)
    assert {row["query_id"] for row in events} == {"q0000"}
    assert {row["reason"] for row in events} == {
        f"points at a row set aside: query_image_id {photo} was set aside from images"
    }


def test_item_without_a_catalogue_picture_is_set_aside_and_without_a_main_one_only_mentioned(
    inspect, tmp_path: Path
) -> None:
    tables, _ = make_tables()
    of_item = tables["images"].to_pandas().query("item_id == 'i004'").set_index("view")["image_id"]
    inspection = inspect(tables, {of_item["main"]: "damaged"})
    assert inspection.rows_left("items") == 24
    assert [(f.rule, f.rows) for f in inspection.warning_findings()] == [("no main picture", 1)]
    inspection = inspect(tables, {of_item["main"]: "damaged", of_item["sku"]: "damaged"})
    rows = aside(inspection, "items", tmp_path)
    assert [row["item_id"] for row in rows] == ["i004"]
    assert rows[0]["reason"].startswith("no catalogue picture: item_id i004")
    assert inspection.violations(next(r for r in inspection.quarantine_rules if r.name == "no catalogue picture")) == 0


def test_tree_below_a_lost_category_is_lost_with_its_items(inspect, tmp_path: Path) -> None:
    tables, _ = make_tables()
    inspection = inspect(tables | {"categories": altered(tables["categories"], 0, name=None)})
    assert [row["category_id"] for row in aside(inspection, "categories", tmp_path)] == ["d0", "c0", "c1"]
    assert inspection.rows_left("items") == 12
    assert all(inspection.violations(rule) == 0 for rule in inspection.quarantine_rules)


def test_odd_times_are_kept_and_mentioned(inspect) -> None:
    tables, _ = make_tables()
    early = altered(tables["events"], 0, ts=AS_OF - timedelta(days=400))
    inspection = inspect(tables | {"events": early})
    assert inspection.findings() == []
    assert [(f.rule, f.rows) for f in inspection.warning_findings()] == [
        ("before its item", 1),
        ("before its account", 1),
    ]


def test_shop_without_a_user_table_keeps_its_events(inspect) -> None:
    tables, _ = make_tables()
    assert inspect(tables | {"users": tables["users"].slice(0, 0)}).findings() == []


def test_long_and_hostile_values_are_cut_and_quoted(inspect, tmp_path: Path) -> None:
    tables, _ = make_tables()
    nasty = "'; DROP TABLE raw_items; --" + "x" * 500
    inspection = inspect(tables | {"events": altered(tables["events"], 7, item_id=nasty)})
    reason = aside(inspection, "events", tmp_path)[0]["reason"]
    assert nasty[:80] in reason
    assert len(reason) < 200
