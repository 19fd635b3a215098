"""Point-in-time rows: what each query's user had done strictly before the query."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from onevision.errors import ContractError
from onevision.features.definitions import EVENT_TIMESTAMP, LONG_HISTORY, SEGMENT, SEQUENCES, USER_KEY
from onevision.features.repository import quiet, sequence_service

ITEM_LIST = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string()),
        *(pa.field(s.name, ITEM_LIST) for s in SEQUENCES),
        pa.field(SEGMENT, pa.string()),
    ]
)
"""Columns of `training_sequences.parquet`."""

JOIN_ROWS = 400_000
"""Rows that one join may hold before it keeps the last one of each query: under a gigabyte at 100 items a row."""


def historical_rows(store: Any, queries: pa.Table) -> pa.Table:
    """Join every query to its user's rows through the feature service.

    Args:
        store: opened on the sources (`repository.open_store`).
        queries: columns `query_id` (unique), `user_id`, `ts`.

    Returns:
        `SCHEMA` and each sequence's `valid_from` column, row for row as `queries`; no history is an empty list.
    """
    if queries.num_rows == 0:
        raise ContractError("queries.parquet holds no query; there is nothing to join sequences to")
    parts = _bounded_parts(store, queries)
    joined = pa.concat_tables([_join(store, part) for part in tqdm(parts, "point-in-time join", disable=None)])
    return joined.take(pc.index_in(queries["query_id"], value_set=joined["query_id"]))


def _bounded_parts(store: Any, queries: pa.Table) -> list[pa.Table]:
    """Queries in parts, user by user, so that one join holds about `JOIN_ROWS` rows.

    Feast joins a query to all of its user's earlier rows before it keeps the last one: rows times queries of a user.
    """
    source = store.get_feature_view(LONG_HISTORY.name).batch_source.path
    with duckdb.connect() as connection:
        connection.read_parquet(source).create_view("source")
        per_user = connection.execute(f"SELECT {USER_KEY}, count(*) AS rows FROM source GROUP BY ALL").to_arrow_table()
    queries = queries.sort_by([("user_id", "ascending"), ("ts", "ascending"), ("query_id", "ascending")])
    rows = per_user["rows"].take(pc.index_in(queries["user_id"], value_set=per_user[USER_KEY]))
    joined = np.cumsum(rows.fill_null(0).to_numpy() + 1)
    starts = np.flatnonzero(np.diff(joined // JOIN_ROWS, prepend=-1))
    ends = [*starts[1:], queries.num_rows]
    return [queries.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _join(store: Any, queries: pa.Table) -> pa.Table:
    entities = pa.table(
        {"query_id": queries["query_id"], USER_KEY: queries["user_id"], EVENT_TIMESTAMP: queries["ts"]}
    ).to_pandas()
    with quiet():
        rows = store.get_historical_features(
            entity_df=entities, features=sequence_service(store), filter_by_created_timestamp=True
        ).to_arrow()
    columns = {
        "query_id": rows["query_id"].cast(pa.string()),
        **{s.name: _empty_for_null(rows[s.name]) for s in SEQUENCES},
        SEGMENT: rows[SEGMENT].cast(pa.string()),
        **{s.valid_from: rows[s.valid_from].cast(pa.int64()) for s in SEQUENCES},
    }
    return pa.table(columns)


def _empty_for_null(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.coalesce(lists.cast(ITEM_LIST), pa.scalar([], type=ITEM_LIST))
