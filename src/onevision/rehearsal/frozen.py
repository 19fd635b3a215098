"""The champion of every night beside the one of night 0: what the nights were good for.

Both answer the searches of a day that neither has seen, with what was known of the shopper then. A search is asked
once, on the first night that is measured after its day; one that is delivered later than that is not. The bundle of
night 0 cannot find what entered later.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import open_artifact
from onevision.data.snapshot import Snapshot
from onevision.evaluation.beside import CHAMPION, Beside
from onevision.evaluation.items import Items
from onevision.evaluation.stage import held_out_queries
from onevision.evaluation.systems import Clock
from onevision.metrics import Interval, first_rank, mean_interval

PLACES = 10
SAMPLES = 1000


def ask_frozen(frozen: Path, made: dict[str, Path], max_queries: int, since: datetime) -> pa.Table:
    """Ask the bundle of night 0 what the champion was asked in a night's evaluation.

    Args:
        made: artifacts of the night: snapshot, pairs, encoder, features, semantic_ids, evaluation.
        max_queries: as the evaluation was told.
        since: searches up to this time were asked before.

    Returns:
        one row a search: `query_id`, `ts`, `new_item` (the item clicked first entered after night 0), and whether it
        is among the first ten of `refreshed` and of `frozen`.
    """
    shop = Snapshot.open(made["snapshot"], verify=False)
    items = Items.load(made["semantic_ids"], shop)
    queries, _ = held_out_queries(made["pairs"], made["encoder"], made["features"], items, max_queries)
    times = pq.read_table(made["pairs"] / "queries.parquet", columns=["query_id", "ts"])
    ts = times["ts"].take(pc.index_in(pa.array(queries.query_id), times["query_id"].combine_chunks()))
    fresh = np.flatnonzero(pc.greater(ts, pa.scalar(since, ts.type)).to_numpy())
    queries, ts = queries.take(fresh), ts.take(pa.array(fresh))
    ranks = pq.read_table(made["evaluation"] / "ranks.parquet", filters=[("system", "==", CHAMPION)])
    refreshed = ranks["rank"].take(
        pc.index_in(pa.array(queries.query_id, pa.string()), ranks["query_id"].combine_chunks())
    )
    hits = {"refreshed": pc.less_equal(refreshed.fill_null(PLACES + 1), PLACES)}
    if len(queries):
        asked = Beside.ask(
            open_artifact(frozen, "bundle"), made["semantic_ids"], queries, shop, items, Clock(len(queries), 1)
        )
        first = first_rank(asked.system.items[:, :PLACES], [[items.row(c[0])] for c in queries.clicked])
        hits["frozen"], new = pa.array(first > 0), pa.array(~asked.known)
    else:
        hits["frozen"] = new = pa.array([], pa.bool_())
    return pa.table({"query_id": pa.array(queries.query_id, pa.string()), "ts": ts, "new_item": new, **hits})


def compared(answers: Iterable[pa.Table], seed: int) -> dict[str, dict[str, float | list[float]]]:
    """Over all searches (`all`) and those for new items (`new`): `searches`, and HR@10 as mean, low and high of
    `refreshed`, `frozen` and their paired `difference`; a part without searches is left out.
    """
    tables = list(answers)
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    own, other = (table[name].to_numpy().astype(float) for name in ("refreshed", "frozen"))
    parts = {"all": np.ones(len(table), bool), "new": table["new_item"].to_numpy().astype(bool)}
    found: dict[str, dict[str, float | list[float]]] = {}
    for name, inside in parts.items():
        if inside.any():
            values = {"refreshed": own[inside], "frozen": other[inside], "difference": own[inside] - other[inside]}
            found[name] = {"searches": float(inside.sum())}
            found[name] |= {key: _three(mean_interval(column, SAMPLES, seed)) for key, column in values.items()}
    return found


def _three(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.mean, interval.low, interval.high)]
