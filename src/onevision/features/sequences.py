"""User sequences from the event log, as SQL on DuckDB: one row for each moment at which a user's list changed.

Two rules keep a query's own answer out of its prompt:

- A row holds from one microsecond after the event that made it. Feast joins a row to a query if it holds *at* the
  query's time, so what joins is what happened strictly before.
- Ties in time are ordered by `event_id`, and a moment has one row, the one after its last event; no engine can
  order them in another way.

A night computes the days that are new: rows of the days before come from an earlier artifact, as far as these days'
entries are the same. An entry that came late is computed from its day on, so the result is that of all days.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from onevision.artifacts import read_json, write_json
from onevision.data.contract import TABLES
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import (
    CREATED_TIMESTAMP,
    DAYS,
    EVENT_TIMESTAMP,
    PROFILE,
    SEGMENT,
    SEQUENCES,
    USER_KEY,
    Sequence,
    load_settings,
    source_file,
)

# Each table holds (user_id, ts, event_id, item_id), one row an entry of a list.
INTERACTIONS = """
SELECT user_id, ts, event_id, item_id
FROM events
WHERE event_type IN ('click', 'cart', 'order')
-- a click, its cart and its order are one interest: an item counts once a search, when it was first touched
QUALIFY row_number() OVER (
    PARTITION BY user_id, item_id, query_id, CASE WHEN query_id IS NULL THEN event_id END
    ORDER BY ts, event_id
) = 1
"""

SEARCHES = """
SELECT user_id, ts, event_id, coalesce(photo.item_id, events.item_id) AS item_id
FROM events
LEFT JOIN images AS photo ON photo.image_id = events.query_image_id
WHERE query_id IS NOT NULL
  AND (photo.item_id IS NOT NULL OR event_type IN ('click', 'cart', 'order'))
QUALIFY row_number() OVER (PARTITION BY user_id, query_id ORDER BY ts, event_id) = 1
"""

ORDERS = """
SELECT user_id, ts, event_id, item_id
FROM events
WHERE event_type = 'order'
"""

ENTRIES = {"interactions": INTERACTIONS, "searches": SEARCHES, "orders": ORDERS}


def sequence_sql(sequence: Sequence, config: FeaturesConfig, since: str | None = None) -> str:
    """SQL text of one sequence over its table of entries: a row for each (user, moment) at which it changed.

    Args:
        since: only moments of this day (`2026-01-31`) and later, from its entries and its users' last ones before.
    """
    before = sequence.greatest_length(config) - 1
    moments = f"ts >= TIMESTAMPTZ '{since} 00:00:00+00'" if since else "true"
    entries = f"""
        SELECT * FROM {sequence.events} WHERE {moments}
        UNION ALL
        SELECT * FROM {sequence.events}
        WHERE NOT {moments} AND user_id IN (SELECT user_id FROM {sequence.events} WHERE {moments})
        QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY ts DESC, event_id DESC) <= {before}
    """
    return f"""
    SELECT
        user_id AS {USER_KEY},
        ts + INTERVAL 1 MICROSECOND AS {EVENT_TIMESTAMP},
        ts + INTERVAL 1 MICROSECOND AS {CREATED_TIMESTAMP},
        epoch_us(ts) + 1 AS {sequence.valid_from},
        list_reverse(newest_last) AS {sequence.name}
    FROM (
        SELECT
            user_id,
            ts,
            event_id,
            list(item_id) OVER (
                PARTITION BY user_id ORDER BY ts, event_id ROWS BETWEEN {before} PRECEDING AND CURRENT ROW
            ) AS newest_last
        FROM {f"({entries})" if since else sequence.events}
    )
    WHERE {moments}
    QUALIFY row_number() OVER (PARTITION BY user_id, ts ORDER BY event_id DESC) = 1
    """


# The account exists from the moment it is made: it tells nothing of the query, so no microsecond is added.
PROFILE_SQL = f"""
SELECT
    user_id AS {USER_KEY},
    created_at AS {EVENT_TIMESTAMP},
    created_at AS {CREATED_TIMESTAMP},
    segment AS {SEGMENT}
FROM users
"""

DAYS_SQL = """
SELECT strftime(ts, '%Y-%m-%d'), count(*) || ':' || bit_xor(hash(user_id, ts, event_id, item_id))
FROM {entries} GROUP BY ALL ORDER BY ALL
"""
"""Day -> what its entries were: their number, and a digest that does not depend on their order."""


def write_sources(snapshot: Path, folder: Path, config: FeaturesConfig, earlier: Path | None = None) -> dict[str, int]:
    """Write the Parquet source of every view into `folder/data`, and what each day's entries were into `folder`.

    Args:
        snapshot: folder with `events.parquet`, `images.parquet` and `users.parquet`.
        earlier: Feast folder of an earlier snapshot, of which days that did not change are taken; the files are the
            same with and without it.

    Returns:
        Rows of each source by view.
    """
    source_file(folder, PROFILE).parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in ("events", "images", "users"):
            connection.read_parquet(str(snapshot / TABLES[name].file)).create_view(name)
        days = {}
        for name, sql in ENTRIES.items():
            connection.execute(f"CREATE TEMP TABLE {name} AS {sql}")
            days[name] = dict(connection.execute(DAYS_SQL.format(entries=name)).fetchall())
        write_json(folder / DAYS, days)
        queries = {s.name: _sequence_rows(s, config, days[s.events], earlier) for s in SEQUENCES}
        queries[PROFILE] = PROFILE_SQL
        return {name: _write(connection, sql, source_file(folder, name)) for name, sql in queries.items()}


def first_new_day(days: dict[str, str], earlier: dict[str, str]) -> str | None:
    """The first day whose entries are not what they were; None if there is none."""
    return min((day for day in days.keys() | earlier.keys() if days.get(day) != earlier.get(day)), default=None)


def _sequence_rows(sequence: Sequence, config: FeaturesConfig, days: dict[str, str], earlier: Path | None) -> str:
    """SQL of a sequence's rows: those of unchanged days as they stand, the others computed."""
    if earlier is None or load_settings(earlier) != config or not (earlier / DAYS).exists():
        return sequence_sql(sequence, config)
    kept = f"SELECT * FROM read_parquet({_text(source_file(earlier, sequence.name))})"
    since = first_new_day(days, read_json(earlier / DAYS)[sequence.events])
    if since is None:
        return kept
    # An entry of the day before holds until this midnight, or from it on: a row comes a microsecond after its entry.
    unchanged = f"{kept} WHERE {EVENT_TIMESTAMP} <= TIMESTAMPTZ '{since} 00:00:00+00'"
    return f"{unchanged} UNION ALL ({sequence_sql(sequence, config, since)})"


def _write(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> int:
    rows = f"SELECT * FROM ({sql}) ORDER BY {USER_KEY}, {EVENT_TIMESTAMP}"
    (written,) = connection.execute(f"COPY ({rows}) TO {_text(path)} (FORMAT parquet, COMPRESSION zstd)").fetchone()
    return int(written)


def _text(path: Path) -> str:
    quoted = str(path).replace("'", "''")
    return f"'{quoted}'"
