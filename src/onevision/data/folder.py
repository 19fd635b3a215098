"""Bring your own shop: a folder of CSV or Parquet files and pictures becomes a snapshot (`docs/data.md`).

Rows that do not fit are set aside in `quarantine/<table>.parquet` with their number and the reason, and counted.
Whether values make sense together (references, ranges, shares set aside) is judged later by `onevision validate`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onevision.data.contract import IMAGES, TABLES, TIMESTAMP, USERS, Column, Table
from onevision.data.images import ImageError, check_image
from onevision.data.rows import Rows, find_file, read_rows
from onevision.data.snapshot import as_utc, refuse_foreign_folder, write_snapshot
from onevision.data.threads import map_in_threads
from onevision.errors import ContractError
from onevision.report import ReportTable, StageReport

PATH = Column("path", pa.string(), "the picture's file, relative to the folder")
DEFAULTS: dict[str, dict[str, str]] = {
    "items": {"in_stock": "true", "created_at": "the earliest time in the folder"},
    "images": {"created_at": "the first search with it, else when its item was created"},
    "users": {"created_at": "the user's first event"},
    "events": {},
    "categories": {},
}
"""Columns that may be left out, or left empty in a row, and what they then hold."""
MAX_FILE_BYTES = 64 * 2**20
_SHOWN_REASONS = 20


def import_folder(
    source: Path, out: Path, *, as_of: datetime | None = None, snapshot_id: str | None = None
) -> StageReport:
    """Write a snapshot from a folder with `categories`, `items`, `images`, `events` and perhaps `users`.

    Args:
        source: holds `<table>.csv` or `<table>.parquet` with the contract's columns; `images` also has `path`.
        out: the snapshot's folder.
        as_of: the snapshot's date; by default the time of the last event. Later events are set aside.
        snapshot_id: by default the folder's name and the date.

    Raises:
        ContractError: a file or column that is missing or cannot be read, or a table of which no row fits.
    """
    started = time.monotonic()
    _check_folders(source, out)
    tables = {table.name: rows for table in TABLES.values() if (rows := _open_table(source, table)) is not None}
    events = tables["events"]
    if as_of is not None:
        as_of = as_utc(as_of)
        late = pc.greater(events.columns["ts"], pa.scalar(as_of, TIMESTAMP)).fill_null(False)
        events.reject(late.to_numpy(zero_copy_only=False), lambda _: f"ts is after the snapshot's date {as_of}")
    paths = _check_pictures(source, tables["images"])
    for rows in tables.values():
        rows.reject_duplicates(rows.table.key)
    fitting = {name: rows.fitting() for name, rows in tables.items()}
    as_of = as_of or pc.max(fitting["events"]["ts"]).as_py()
    kept = fitting["images"]["image_id"].to_pylist()
    finished = _fill_defaults(fitting)
    quarantined = {name: rows.quarantine() for name, rows in tables.items() if rows.aside}
    write_snapshot(
        out,
        finished,
        _read_pictures(source, kept, paths),
        snapshot_id=snapshot_id or f"{source.resolve().name}-{as_of:%Y-%m-%d}",
        source="folder",
        as_of=as_of,
        extra_files={f"quarantine/{name}.parquet": table for name, table in quarantined.items()},
    )
    return _report(tables, finished, quarantined, time.monotonic() - started)


def _check_folders(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise ContractError(f"{source}: no such folder; it should hold {', '.join(f'{name}.csv' for name in TABLES)}")
    if source.resolve().is_relative_to(out.resolve()):
        raise ContractError(f"{out}: writing the snapshot here would delete {source}; name another folder for it")
    refuse_foreign_folder(out)


def _open_table(source: Path, table: Table) -> Rows | None:
    columns = (*table.columns, PATH) if table is IMAGES else table.columns
    path = find_file(source, table)
    if path is None:
        if not table.required:
            return None
        raise ContractError(
            f"{source}: no {table.name}.csv or {table.name}.parquet ({table.meaning}); "
            f"its columns are {', '.join(c.name for c in columns)}"
        )
    rows = read_rows(path, table)
    names = rows.raw.column_names
    for column in columns:
        may_be_empty = column.nullable or column.name in DEFAULTS[table.name]
        if column.name in names:
            rows.cast(column, required=not may_be_empty)
        elif may_be_empty:
            rows.columns[column.name] = pa.nulls(rows.raw.num_rows, column.type)
        else:
            raise ContractError(
                f"{path}: no column {column.name!r} ({column.type}: {column.meaning}); it has {', '.join(names)}"
            )
    return rows


def _check_pictures(source: Path, images: Rows) -> dict[str, str]:
    """Set aside the rows whose picture cannot be used; path of every picture that can."""
    root = source.resolve()
    paths, ids = images.columns["path"].to_pylist(), images.columns["image_id"].to_pylist()

    def fault(row: int) -> str | None:
        try:
            check_image(_picture_file(root, paths[row]).read_bytes())
        except (ImageError, OSError, ValueError) as error:
            return f"path {paths[row]!r}: {error}"
        return None

    rows = np.flatnonzero(images.kept).tolist()
    found = zip(rows, map_in_threads(fault, rows, "check pictures"), strict=True)
    faults = {row: text for row, text in found if text is not None}
    images.reject(np.isin(np.arange(len(paths)), list(faults)), lambda row: faults[row])
    usable: dict[str, str] = {}
    for row in np.flatnonzero(images.kept):
        usable.setdefault(ids[row], paths[row])
    return usable


def _picture_file(root: Path, path: str) -> Path:
    file = (root / path).resolve()
    if not file.is_relative_to(root):
        raise ImageError("leads out of the folder")
    if not file.is_file():
        raise ImageError("no such file")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(f"{file.stat().st_size:,} bytes, over the cap of {MAX_FILE_BYTES:,}")
    return file


def _read_pictures(source: Path, ids: list[str], paths: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    root = source.resolve()
    return ((image_id, _picture_file(root, paths[image_id]).read_bytes()) for image_id in ids)


def _fill_defaults(fitting: dict[str, pa.Table]) -> dict[str, pa.Table]:
    events = fitting["events"]
    given = [fitting[name]["created_at"] for name in ("items", "images", "users") if name in fitting]
    earliest = min(low for low in (pc.min(times).as_py() for times in (events["ts"], *given)) if low is not None)
    items = _fill(fitting["items"], "in_stock", True)
    items = _fill(items, "created_at", earliest)
    images = fitting["images"].drop_columns(["path"])
    created = dict(zip(items["item_id"].to_pylist(), items["created_at"].to_pylist(), strict=True))
    images = _fill_by(images, "image_id", _first_times(events, "query_image_id"))
    images = _fill(_fill_by(images, "item_id", created), "created_at", earliest)
    firsts = _first_times(events, "user_id")
    users = fitting.get("users")
    if users is None:
        users = pa.table({"user_id": sorted(firsts)}, schema=pa.schema([USERS.schema.field("user_id")]))
        for column in USERS.columns[1:]:
            users = users.append_column(column.name, pa.nulls(len(users), column.type))
    users = _fill(_fill_by(users, "user_id", firsts), "created_at", earliest)
    return fitting | {"items": items, "images": images, "users": users}


def _first_times(events: pa.Table, key: str) -> dict[str, datetime]:
    first = events.group_by(key).aggregate([("ts", "min")])
    times = zip(first[key].to_pylist(), first["ts_min"].to_pylist(), strict=True)
    return {value: time for value, time in times if value is not None}


def _fill(table: pa.Table, column: str, value: object) -> pa.Table:
    index = table.column_names.index(column)
    return table.set_column(index, column, pc.fill_null(table[column], pa.scalar(value, table[column].type)))


def _fill_by(table: pa.Table, key: str, times: dict[str, datetime]) -> pa.Table:
    found = pa.array([times.get(value) for value in table[key].to_pylist()], TIMESTAMP)
    index = table.column_names.index("created_at")
    return table.set_column(index, "created_at", pc.coalesce(table["created_at"], found))


def _report(
    read: dict[str, Rows], written: dict[str, pa.Table], quarantined: dict[str, pa.Table], seconds: float
) -> StageReport:
    counts: dict[str, int] = {}
    warnings: list[str] = []
    for name, table in written.items():
        rows = read.get(name)
        counts |= {
            f"{name}_in": len(rows.numbers) + len(rows.broken) if rows else 0,
            f"{name}_out": table.num_rows,
            f"{name}_quarantined": rows.aside if rows else 0,
        }
        if rows is None:
            warnings.append(f"{name}: no file, {table.num_rows} rows were derived from events")
            continue
        known = {column.name for column in rows.table.columns} | ({PATH.name} if name == IMAGES.name else set())
        for column in sorted(set(rows.raw.column_names) - known):
            warnings.append(f"{rows.path.name}: column {column!r} is not in the contract and was not taken")
    aside = [
        [name, reason]
        for name, table in quarantined.items()
        for reason in table["reason"].slice(0, _SHOWN_REASONS).to_pylist()
    ]
    tables = [ReportTable("Rows set aside", ["table", "reason"], aside, "first ones a table")] if aside else []
    return StageReport("import", counts, warnings=warnings, tables=tables, seconds=seconds)
