"""A snapshot as it was at an earlier date: what the shop knew then, and nothing later.

Cut at one date after the other, one long log gives the days of one shop: items keep their ids and pictures, each day
adds its own. Nights are rehearsed with it (`onevision simulate-nights`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import check_output_folder
from onevision.data.contract import SNAPSHOT_KIND, TABLES
from onevision.data.snapshot import Snapshot, as_utc, write_snapshot
from onevision.errors import ContractError
from onevision.report import StageReport

_DATED = {"items": "created_at", "images": "created_at", "users": "created_at", "events": "ts"}
_ORACLES = {"oracle_items.parquet": ("items", "item_id"), "oracle_queries.parquet": ("events", "query_id")}
"""Hidden truth of the synthetic shop -> the table and column that say which of its rows are of the time."""


def cut_snapshot(source: Path | str, out: Path, as_of: datetime) -> StageReport:
    """Write the snapshot of an earlier date.

    Args:
        as_of: the new snapshot's date (UTC); rows that are dated later are left out, with the pictures and
            events of items that are.

    Raises:
        ContractError: the source is of that date or an earlier one, or knows nothing of that time.
    """
    shop, as_of = Snapshot.open(source), as_utc(as_of)
    check_output_folder(out, {"snapshot": shop.path}, SNAPSHOT_KIND)
    if as_of >= shop.as_of:
        raise ContractError(f"{shop.path}: is of {shop.as_of.isoformat()}; it can be cut at an earlier date only")
    tables = {name: _until(shop.table(name), name, as_of) for name in TABLES}
    known = tables["items"]["item_id"].combine_chunks()
    images, events = tables["images"], tables["events"]
    tables["images"] = images.filter(pc.or_(pc.is_null(images["item_id"]), pc.is_in(images["item_id"], known)))
    tables["events"] = events.filter(pc.is_in(events["item_id"], known))
    if not len(tables["events"]):
        raise ContractError(f"{shop.path}: no event up to {as_of.isoformat()}")
    extra_files = {
        name: _oracle(shop.path / name, tables[table][column], column)
        for name, (table, column) in _ORACLES.items()
        if (shop.path / name).is_file()
    }
    ids = tables["images"]["image_id"].to_pylist()
    artifact = write_snapshot(
        out,
        tables,
        zip(ids, shop.images.read_many(ids), strict=True),
        snapshot_id=f"{shop.snapshot_id}-{as_of:%Y-%m-%d}",
        source=shop.source,
        as_of=as_of,
        extra_files=extra_files,
    )
    return StageReport("snapshot", counts=artifact.counts)


def _until(table: pa.Table, name: str, as_of: datetime) -> pa.Table:
    if name not in _DATED:
        return table
    times = table[_DATED[name]]
    return table.filter(pc.less_equal(times, pa.scalar(as_of, times.type)))


def _oracle(path: Path, keys: pa.ChunkedArray, column: str) -> pa.Table:
    table = pq.read_table(path)
    return table.filter(pc.is_in(table[column], keys.combine_chunks()))
