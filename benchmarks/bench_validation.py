"""Validating a large event log: our rules in SQL with bounded memory, beside Great Expectations on pandas in memory.

Run: python benchmarks/bench_validation.py [--events 10000000] [--memory-gb 2] [--out FILE]

Both sides check the same rules about `events.parquet`, each in a process of its own: nulls, allowed values, minima,
times, unique keys, and references to items, users and pictures. Ours also checks the other tables, writes the rows set
aside with their reason and the clean tables, reads them back and proves them; the peer only counts. Both must find the
same bad rows. At its full size it takes some minutes, 3 GB of disk, and as much memory as pandas wants.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.data.contract import TABLES
from onevision.validation.config import ValidationConfig
from onevision.validation.inspection import Inspection
from onevision.validation.proof import QUARANTINE, prove
from onevision.validation.suites import check_frames, require_great_expectations, table_expectations

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
AS_OF = BEGIN + timedelta(days=30)
ITEMS, USERS, PHOTOS = 100_000, 200_000, 50_000
BAD = {"null": 3, "not allowed": 1, "below minimum": 1, "future": 1, "unknown reference": 3, "duplicate": 1}
"""Rule -> columns that it is broken in; each of them in one of `ONE_IN` events."""
ONE_IN = 10_000


def write_snapshot(folder: Path, events: int, seed: int = 7) -> None:
    """All tables of the contract; in each 10,000 events each kind of mistake is made once, in rows of its own."""
    born = f"TIMESTAMPTZ '{BEGIN.isoformat()}' AS created_at"
    small = {
        "categories": "SELECT 'c' || range AS category_id, 'name' AS name, NULL AS parent_id FROM range(100)",
        "items": f"SELECT 'item-' || range AS item_id, NULL AS title, 'c' || range % 100 AS category_id, "
        f"NULL AS brand, range % 997 / 7 AS price, true AS in_stock, {born} FROM range({ITEMS})",
        "images": f"SELECT 'main-' || range AS image_id, 'item-' || range AS item_id, 'main' AS view, {born} "
        f"FROM range({ITEMS}) UNION ALL SELECT 'photo-' || range, NULL, 'user_photo', {born} FROM range({PHOTOS})",
        "users": f"SELECT 'user-' || range AS user_id, {born}, NULL AS segment FROM range({USERS})",
    }
    moment = f"(n::HUGEINT * {29 * 86_400_000_000} // {events})::BIGINT"
    log = f"""
        SELECT
            CASE n % {ONE_IN} WHEN 11 THEN NULL ELSE format('event-{{:010d}}', n - (n % {ONE_IN} = 21)::INT) END
                AS event_id,
            TIMESTAMPTZ '{BEGIN.isoformat()}' + to_microseconds({moment})
                + CASE n % {ONE_IN} WHEN 31 THEN INTERVAL 9 DAY * 9 ELSE INTERVAL 0 DAY END AS ts,
            CASE n % {ONE_IN} WHEN 12 THEN NULL WHEN 41 THEN 'nobody' ELSE 'user-' || hash(n // 5, {seed}) % {USERS} END
                AS user_id,
            CASE n % {ONE_IN} WHEN 51 THEN 'look' ELSE ['impression', 'impression', 'click', 'cart', 'order'][n % 5 + 1]
                END AS event_type,
            CASE n % {ONE_IN} WHEN 13 THEN NULL WHEN 42 THEN 'nothing' ELSE 'item-' || hash(n, {seed}) % {ITEMS} END
                AS item_id,
            'query-' || n // 5 AS query_id,
            CASE n % {ONE_IN} WHEN 43 THEN 'no photo' ELSE 'photo-' || n // 5 % {PHOTOS} END AS query_image_id,
            CASE n % {ONE_IN} WHEN 61 THEN 0 ELSE n % 5 + 1 END AS position
        FROM (SELECT range AS n FROM range({events}))
    """
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB", "temp_directory": str(folder)}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, sql in {**small, "events": log}.items():
            schema = pa.schema([field.with_nullable(True) for field in TABLES[name].schema])
            with pq.ParquetWriter(folder / TABLES[name].file, schema) as writer:
                for batch in connection.execute(sql).to_arrow_reader(100_000):
                    writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))


def ours(folder: Path, memory_gb: float) -> dict[str, int]:
    """What the stage does with tables; bad events by rule."""
    out = folder / "clean"
    inspection = Inspection(folder, AS_OF, {}, memory_gb=memory_gb)
    inspection.set_bad_rows_aside()
    for name, table in TABLES.items():
        inspection.write_aside(name, out / QUARANTINE / table.file)
        inspection.write_left(name, out / table.file)
    prove(inspection, Inspection(out, AS_OF, {}, memory_gb=memory_gb), out, ValidationConfig())
    found: Counter[str] = Counter()
    for finding in inspection.findings("events"):
        found[finding.rule] += finding.rows
    return dict(found)


def peer(folder: Path) -> dict[str, int]:
    """The same rules about events as expectations over a data frame of all rows; bad events by expectation."""
    gxe = require_great_expectations().expectations
    frame = pd.read_parquet(folder / "events.parquet")
    expectations = table_expectations(TABLES["events"], AS_OF, 1)
    for column in TABLES["events"].columns:
        if column.references:
            other, _, key = column.references.partition(".")
            known = pd.read_parquet(folder / TABLES[other].file, columns=[key])[key]
            frame[f"{column.name} known"] = frame[column.name].isin(known) | frame[column.name].isna()
            expectations.append(gxe.ExpectColumnValuesToBeInSet(column=f"{column.name} known", value_set=[True]))
    found: Counter[str] = Counter()
    for outcome in check_frames({"events": frame}, {"events": expectations[1:]}):  # the first is about the columns
        if outcome.unexpected:
            found[outcome.expectation] += outcome.unexpected
    return dict(found)


def run_side(side: str, folder: Path, memory_gb: float) -> None:
    """One side, in this process: what it found and what it cost."""
    found = ours(folder, memory_gb) if side == "ours" else peer(folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024, "found": found}
    (folder / f"{side}.json").write_text(json.dumps(cost))


def found_alike(sides: dict[str, dict[str, int]], events: int) -> bool:
    """Whether both found what was put in; a key that stands twice is one bad row of ours, two of the peer's."""
    each = events // ONE_IN
    mine = {rule: columns * each for rule, columns in BAD.items()}
    theirs = {
        "column values to not be null": mine["null"],
        "column values to be in set": mine["not allowed"] + mine["unknown reference"],
        "column values to be between": mine["below minimum"] + mine["future"],
        "column values to be unique": 2 * mine["duplicate"],
    }
    return sides["ours"] == mine and sides["great expectations"] == theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--memory-gb", type=float, default=ValidationConfig().memory_gb, help="DuckDB's own limit")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--side", choices=["ours", "great expectations"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder, arguments.memory_gb)
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_snapshot(Path(scratch), arguments.events)
        costs = {}
        for side in ("ours", "great expectations"):
            command = [sys.executable, __file__, "--side", side, "--folder", scratch]
            subprocess.run([*command, "--memory-gb", str(arguments.memory_gb)], check=True)
            costs[side] = json.loads(Path(scratch, f"{side}.json").read_text())
            print(f"{side:18s} {costs[side]['cpu_seconds']:7.1f} CPU s, peak memory {costs[side]['peak_mb']:7,.0f} MB")
    alike = found_alike({side: cost["found"] for side, cost in costs.items()}, arguments.events)
    ratio = {name: costs["great expectations"][name] / costs["ours"][name] for name in ("cpu_seconds", "peak_mb")}
    print(
        f"{arguments.events:,} events; both found every bad row: {alike}; Great Expectations in memory takes", end=" "
    )
    print(f"{ratio['cpu_seconds']:.1f}x the CPU and {ratio['peak_mb']:.1f}x the memory")
    if arguments.out:
        sizes = {"events": arguments.events, "memory_gb": arguments.memory_gb, "found_alike": alike}
        arguments.out.write_text(json.dumps(sizes | costs | {"ratio": ratio}, indent=2) + "\n")
    sys.exit(0 if alike else 1)


if __name__ == "__main__":
    main()
