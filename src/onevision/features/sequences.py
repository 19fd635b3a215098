"""User sequences from the event log, as SQL on DuckDB: one row for each moment at which a user's list changed.

Two rules keep a query's own answer out of its prompt:

- A row holds from one microsecond after the event that made it. Feast joins a row to a query if it holds *at* the
  query's time, so what joins is what happened strictly before.
- Ties in time are ordered by `event_id`, and a moment has one row, the one after its last event; no engine can
  order them in another way.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from onevision.data.contract import TABLES
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    PROFILE,
    SEGMENT,
    SEQUENCES,
    USER_KEY,
    Sequence,
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


def sequence_sql(sequence: Sequence, config: FeaturesConfig) -> str:
    """SQL text of one sequence over its table of entries: a row for each (user, moment) at which it changed."""
    before = sequence.greatest_length(config) - 1
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
        FROM {sequence.events}
    )
    QUALIFY row_number() OVER (PARTITION BY user_id, ts ORDER BY event_id DESC) = 1
    ORDER BY {USER_KEY}, {EVENT_TIMESTAMP}
    """


# The account exists from the moment it is made: it tells nothing of the query, so no microsecond is added.
PROFILE_SQL = f"""
SELECT
    user_id AS {USER_KEY},
    created_at AS {EVENT_TIMESTAMP},
    created_at AS {CREATED_TIMESTAMP},
    segment AS {SEGMENT}
FROM users
ORDER BY {USER_KEY}
"""


def write_sources(snapshot: Path, folder: Path, config: FeaturesConfig) -> dict[str, int]:
    """Write the Parquet source of every view into `folder/data`.

    Args:
        snapshot: folder with `events.parquet`, `images.parquet` and `users.parquet`.

    Returns:
        Rows of each source by view.
    """
    source_file(folder, PROFILE).parent.mkdir(parents=True, exist_ok=True)
    rows = {}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in ("events", "images", "users"):
            connection.read_parquet(str(snapshot / TABLES[name].file)).create_view(name)
        for name, sql in ENTRIES.items():
            connection.execute(f"CREATE TEMP TABLE {name} AS {sql}")
        queries = {s.name: sequence_sql(s, config) for s in SEQUENCES} | {PROFILE: PROFILE_SQL}
        for name, sql in queries.items():
            path = str(source_file(folder, name)).replace("'", "''")
            (written,) = connection.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)").fetchone()
            rows[name] = int(written)
    return rows
