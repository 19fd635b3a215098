"""Point-in-time rows: what each query's user had done strictly before the query."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from onevision.errors import ContractError
from onevision.features.definitions import EVENT_TIMESTAMP, SEGMENT, SEQUENCES, USER_KEY
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


def historical_rows(store: Any, queries: pa.Table) -> pa.Table:
    """Join every query to its user's rows through the feature service.

    Args:
        queries: columns `query_id` (unique), `user_id`, `ts`.

    Returns:
        `SCHEMA` and each sequence's `valid_from` column, row for row as `queries`; no history is an empty list.
    """
    if queries.num_rows == 0:
        raise ContractError("queries.parquet holds no query; there is nothing to join sequences to")
    entities = pa.table(
        {
            "query_id": queries["query_id"],
            USER_KEY: queries["user_id"],
            EVENT_TIMESTAMP: queries["ts"],
        }
    ).to_pandas()
    with quiet():
        joined = store.get_historical_features(
            entity_df=entities, features=sequence_service(store), filter_by_created_timestamp=True
        ).to_arrow()
    rows = joined.take(pc.index_in(queries["query_id"], value_set=joined["query_id"]))
    columns = {"query_id": rows["query_id"].cast(pa.string())}
    for sequence in SEQUENCES:
        columns[sequence.name] = _empty_for_null(rows[sequence.name])
    columns[SEGMENT] = rows[SEGMENT].cast(pa.string())
    table = pa.table(columns, schema=SCHEMA)
    for sequence in SEQUENCES:
        table = table.append_column(sequence.valid_from, rows[sequence.valid_from].cast(pa.int64()))
    return table


def _empty_for_null(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.coalesce(lists.cast(ITEM_LIST), pa.scalar([], type=ITEM_LIST))
