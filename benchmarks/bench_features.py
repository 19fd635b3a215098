"""User sequences: building them, joining them to queries beside a raw DuckDB ASOF join, and reading one user online,
from SQLite and from a Redis that is started here, beside Feast's own call and redis-py.

Run: python benchmarks/bench_features.py [--events 1000000] [--users 20000] [--queries 100000] [--out FILE]
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from online_readers import measure, open_readers, redis_server, show

from onevision.data.contract import EVENTS, IMAGES, TIMESTAMP, USERS
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import EVENT_TIMESTAMP, PROFILE, SEGMENT, SEQUENCES, USER_KEY, source_file
from onevision.features.history import historical_rows
from onevision.features.repository import open_store, require_feast, write_repository
from onevision.features.sequences import write_sources

BEGIN = datetime(2025, 3, 1, tzinfo=UTC)
DAYS = 30


def write_log(folder: Path, events: int, users: int, seed: int = 7) -> None:
    """A snapshot's event, image and user tables: searches of five events, users as active as Zipf's law says."""
    rng = np.random.default_rng(seed)
    searches = events // 5
    weight = 1.0 / np.arange(1, users + 1) ** 0.7
    user = np.repeat(rng.choice(users, size=searches, p=weight / weight.sum()), 5)
    start = np.sort(rng.integers(0, DAYS * 86_400_000_000, size=searches))
    offset = np.tile([0, 0, 5_000_000, 20_000_000, 60_000_000], searches)
    kind = np.tile(["impression", "impression", "click", "cart", "order"], searches)
    item = rng.integers(0, 100_000, size=searches * 5)
    search = np.repeat(np.arange(searches), 5)
    columns = {
        "event_id": np.char.mod("e%010d", np.arange(searches * 5)),
        "ts": pa.array(np.repeat(start, 5) + offset + _micros(BEGIN), type=pa.int64()).cast(TIMESTAMP),
        "user_id": np.char.mod("user-%07d", user),
        "event_type": kind,
        "item_id": np.char.mod("item-%06d", item),
        "query_id": np.char.mod("q%09d", search),
        "query_image_id": np.char.mod("photo-%05d", search % 50_000),
        "position": pa.array(np.tile([1, 2, 1, 1, 1], searches), type=pa.int32()),
    }
    pq.write_table(pa.table(columns, schema=EVENTS.schema), folder / EVENTS.file)
    photos = np.arange(50_000)
    images = {
        "image_id": np.char.mod("photo-%05d", photos),
        "item_id": pa.array([f"item-{k:06d}" if k % 2 else None for k in photos]),
        "view": ["user_photo"] * len(photos),
        "created_at": pa.array([BEGIN] * len(photos), type=TIMESTAMP),
    }
    pq.write_table(pa.table(images, schema=IMAGES.schema), folder / IMAGES.file)
    accounts = {
        "user_id": np.char.mod("user-%07d", np.arange(users)),
        "created_at": pa.array([BEGIN] * users, type=TIMESTAMP),
        "segment": np.char.mod("segment-%d", np.arange(users) % 4),
    }
    pq.write_table(pa.table(accounts, schema=USERS.schema), folder / USERS.file)


def make_queries(queries: int, users: int, seed: int = 8) -> pa.Table:
    """Random users at random times of the last ten days."""
    rng = np.random.default_rng(seed)
    ts = rng.integers(20 * 86_400_000_000, DAYS * 86_400_000_000, size=queries) + _micros(BEGIN)
    return pa.table(
        {
            "query_id": np.char.mod("asked-%d", np.arange(queries)),
            "user_id": np.char.mod("user-%07d", rng.integers(0, users, size=queries)),
            "ts": pa.array(ts, type=pa.int64()).cast(TIMESTAMP),
        }
    )


def asof_join(folder: Path, queries: pa.Table, config: FeaturesConfig) -> pa.Table:
    """The same rows by DuckDB's own ASOF join, the named peer: it finds each row by its keys, then fetches its list."""
    columns = ["queries.query_id"]
    joins = []
    with duckdb.connect() as connection:
        connection.register("arrow_queries", queries)  # joining it as it is costs ten times a table of DuckDB's own
        connection.execute("CREATE TEMP TABLE queries AS SELECT * FROM arrow_queries")
        for name, value, life in (*((s.name, s.name, s.life(config)) for s in SEQUENCES), (PROFILE, SEGMENT, None)):
            connection.read_parquet(str(source_file(folder, name))).create_view(name)
            alive = f"AND {EVENT_TIMESTAMP} + INTERVAL {life.days} DAY >= ts" if life else ""
            connection.execute(f"""
                CREATE TEMP TABLE {name}_found AS
                SELECT query_id, {value}
                FROM (
                    SELECT query_id, keys.{USER_KEY}, keys.{EVENT_TIMESTAMP}, ts
                    FROM queries
                    ASOF JOIN (SELECT {USER_KEY}, {EVENT_TIMESTAMP} FROM {name}) AS keys
                    ON queries.user_id = keys.{USER_KEY} AND queries.ts >= keys.{EVENT_TIMESTAMP}
                )
                JOIN {name} USING ({USER_KEY}, {EVENT_TIMESTAMP})
                WHERE true {alive}
            """)
            columns.append(f"coalesce({value}, []) AS {value}" if life else value)
            joins.append(f"LEFT JOIN {name}_found USING (query_id)")
        return connection.execute(f"SELECT {', '.join(columns)} FROM queries {' '.join(joins)}").to_arrow_table()


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[Any, float]:
    """The result, and CPU seconds of all threads: on a shared machine they drift less than wall-clock time."""
    started = clock()
    result = function()
    return result, clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--reads", type=int, default=2000, help="of one user each, from every store")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    config = FeaturesConfig()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_log(folder, arguments.events, arguments.users)
        queries = make_queries(arguments.queries, arguments.users)
        repo = folder / "feature_repo"
        write_repository(repo, config)
        rows, source_seconds = timed(lambda: write_sources(folder, repo, config))
        megabytes = sum(f.stat().st_size for f in (repo / "data").iterdir()) / 1e6
        print(
            f"sources: {arguments.events:,} events -> {sum(rows.values()):,} rows, {megabytes:.0f} MB: "
            f"{source_seconds:.2f} CPU s"
        )
        print(f"  peak memory so far {peak_memory():.0f} MB")
        _, importing = timed(require_feast)
        store, applying = timed(lambda: open_store(repo, folder))
        print(f"import feast: {importing:.1f} CPU s; apply the definitions: {applying:.2f} CPU s")
        peer, peer_seconds = timed(lambda: asof_join(repo, queries, config))
        print(f"join {queries.num_rows:,} queries, DuckDB ASOF: {peer_seconds:.2f} CPU s; peak {peak_memory():.0f} MB")
        ours, seconds = timed(lambda: historical_rows(store, queries))
        print(
            f"join {queries.num_rows:,} queries, Feast: {seconds:.2f} CPU s, {queries.num_rows / seconds:,.0f} rows "
            f"a CPU second, {seconds / peer_seconds:.2f}x the ASOF join; peak {peak_memory():.0f} MB"
        )
        mine = ours.select(peer.column_names)
        same = mine.sort_by("query_id").equals(peer.cast(mine.schema).sort_by("query_id"))
        print(f"the two joins agree: {same}")
        as_of = BEGIN + timedelta(days=DAYS, hours=1)
        users = [f"user-{k:07d}" for k in range(arguments.users)]
        with redis_server(folder) as address:
            readers, materializing = open_readers(store, repo, as_of, address, users)
            found = measure(readers, users, arguments.reads)
        for name, cpu in materializing.items():
            print(f"materialize {arguments.users:,} users, {name}: {cpu:.1f} CPU s")
        show(found)
    if arguments.out:
        figures = {
            **{name: getattr(arguments, name) for name in ("events", "users", "queries", "reads")},
            "source_cpu_seconds": source_seconds,
            "join_cpu_seconds": {"feast": seconds, "duckdb asof": peer_seconds},
            "joins_agree": same,
            "materialize_cpu_seconds": materializing,
            "online_read": found,
        }
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if same else 1)


def peak_memory() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


if __name__ == "__main__":
    main()
