"""The tables of pairing: opens the snapshot's on an engine, runs the SQL of `mining.py`, returns Arrow tables."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.data.contract import TABLES, TIMESTAMP
from onevision.data.snapshot import Snapshot
from onevision.errors import ContractError
from onevision.pairing.config import PairingConfig
from onevision.pairing.duplicates import copy_groups, fingerprints, follow_held_out, representatives, with_equals
from onevision.pairing.engines import Engine
from onevision.pairing.mining import (
    ACTS,
    KINDS,
    LOG,
    NUMBERED_ITEMS,
    OFFENDERS,
    OUTCOMES,
    QUERIES,
    RULES,
    SEARCHES,
    SOURCES,
)
from onevision.pairing.splits import PICTURES, RANKED_PICTURES, SETTLED_PICTURES, SPLITS, TimeSplit, split_names

MAX_VIEWS = 64
"""Pictures of an item, or clicks of a visit, that take part in a join of all with all."""
_OUTCOME_LISTS = {
    "shown": ("impression", "COALESCE(o.position, 2147483647), o.ts, o.event_id"),
    "clicked": ("click", "o.ts, o.event_id"),
    "carted": ("cart", "o.ts, o.event_id"),
    "ordered": ("order", "o.ts, o.event_id"),
}


class PairTables:
    """The snapshot's tables on an engine, and the steps from them to queries and pairs, in order.

    Args:
        engine: runs the SQL; the log stays on it, tables of a row a picture, query or pair come to this process.
        seed: which of equally good pairs stay when an item has too many.
    """

    def __init__(self, engine: Engine, snapshot: Snapshot, split: TimeSplit, config: PairingConfig, seed: int) -> None:
        self._numbers: dict[str, Any] = split.microseconds() | {
            "seed": seed,
            "max_views": MAX_VIEWS,
            "max_clicks": math.floor(config.max_clicks_per_minute),
            "max_same_item": config.max_pairs_per_item,
            "max_co_click": config.max_co_click_pairs_per_item,
            **{name: value for name, value in config.model_dump().items() if name.endswith("_weight")},
        }
        self._bits = config.duplicate_hash_bits
        self._snapshot = snapshot
        self._engine = engine
        for name, table in TABLES.items():
            engine.add_parquet(f"raw_{name}", snapshot.path / table.file)
            columns = (f"unix_micros({c.name}) AS {c.name}" if c.type == TIMESTAMP else c.name for c in table.columns)
            engine.run(f"CREATE TEMPORARY VIEW {name} AS SELECT {', '.join(columns)} FROM raw_{name}")

    def count(self, sql: str) -> int:
        """The one number that a query gives."""
        return int(self._scalar(sql) or 0)

    def first_event(self) -> datetime | None:
        """Time of the first event; None if there is none."""
        first = self._scalar("SELECT MIN(ts) FROM events")
        return None if first is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=first)

    def require_sound(self) -> None:
        """`ContractError` if an event is later than the snapshot or points at nothing: `validate` comes first."""
        checks = {
            "are later than the snapshot's date": "ts > $as_of",
            "are of an item that table 'items' does not hold": "item_id NOT IN (SELECT item_id FROM items)",
            "were sent with a picture that table 'images' does not hold": (
                "query_image_id IS NOT NULL AND query_image_id NOT IN (SELECT image_id FROM images)"
            ),
        }
        for what, condition in checks.items():
            bad = self.count(f"SELECT COUNT(*) FROM events WHERE {condition}")
            if bad:
                example = self._scalar(f"SELECT MIN(event_id) FROM events WHERE {condition}")
                raise ContractError(
                    f"{self._snapshot.path}: {bad} events (such as {example!r}) {what}; "
                    "run `onevision validate` first, it sets them aside"
                )

    def collect_searches(self) -> None:
        """Split the events, mark dishonest users, and collect the searches by photo and what came of them."""
        for statement in (OFFENDERS, LOG, SEARCHES, OUTCOMES):
            self._run(statement)

    def split_pictures(self) -> pa.Table:
        """Give every picture its split and its representative; returns `image_splits` (order of `images`)."""
        self._run(PICTURES)
        ranked = self._fetch(RANKED_PICTURES)
        ids = ranked["image_id"].to_pylist()
        split, held_out = ranked["split"].to_numpy(), ranked["held_out"].to_numpy()
        hashes, thumbnails = fingerprints(self._snapshot.images, ids)
        groups = copy_groups(hashes, thumbnails, ranked["item_id"].to_pylist(), self._bits)
        split = follow_held_out(split, held_out, with_equals(groups, hashes, thumbnails))
        picture = np.argsort(np.argsort(np.array(ids, dtype=object))).astype(np.int32)
        stand_in = picture[representatives(groups, split == 0)]
        settled = {"image_id": ids, "picture": picture, "split": split, "representative": stand_in}
        self._engine.add_table("settled", pa.table(settled))
        self._run(NUMBERED_ITEMS)
        self._run(SETTLED_PICTURES)
        pictures = self._fetch("SELECT image_id, split, catalogue FROM pictures")
        order = self._snapshot.table("images").select(["image_id"])
        row_of = {image_id: row for row, image_id in enumerate(pictures["image_id"].to_pylist())}
        pictures = pictures.take([row_of[image_id] for image_id in order["image_id"].to_pylist()])
        names = split_names(pictures["split"].to_numpy(), pictures["catalogue"].to_numpy())
        return order.append_column("split", names)

    def queries(self) -> pa.Table:
        """`queries.parquet`, by time and id."""
        self._run(QUERIES)
        rows = self._fetch("SELECT * FROM query_rows ORDER BY ts, query_id")
        names = np.array(SPLITS, dtype=object)[rows["split"].to_numpy()]
        rows = rows.set_column(rows.schema.get_field_index("split"), "split", pa.array(names, pa.string()))
        rows = rows.set_column(rows.schema.get_field_index("ts"), "ts", rows["ts"].cast(TIMESTAMP))
        flags = rows.select(["cold_item", "cold_user", "personal"])
        rows = rows.drop_columns(flags.column_names)
        for name, (event_type, order) in _OUTCOME_LISTS.items():
            rows = rows.append_column(name, self._item_lists(event_type, order, rows["query_id"].to_pylist()))
        for name in flags.column_names:
            rows = rows.append_column(name, flags[name])
        return rows

    def pairs(self) -> tuple[pa.Table, list[tuple[str, dict[str, int]]]]:
        """Mine pairs and clean them.

        Returns:
            `image_pairs.parquet`, and for mining and then each rule, its name and the pairs of each kind left after it.
        """
        self._run(ACTS)
        union = "\nUNION ALL\n".join(f"SELECT * FROM ({source}) mined" for source in SOURCES)
        self._run(f"CREATE TABLE pairs_0 AS {union}")
        steps = [("mined", self._kinds("pairs_0"))]
        for step, (rule, sql) in enumerate(RULES.items()):
            self._numbers["source"] = f"pairs_{step}"
            self._run(f"CREATE TABLE pairs_{step + 1} AS {sql}")
            self._run(f"DROP TABLE pairs_{step}")
            steps.append((rule, self._kinds(f"pairs_{step + 1}")))
        rows = self._fetch(f"SELECT a, b, kind, weight FROM pairs_{len(RULES)} ORDER BY kind, a, b")
        return named_pairs(rows, self._fetch("SELECT image_id, item_id, view FROM pictures ORDER BY picture")), steps

    def _kinds(self, table: str) -> dict[str, int]:
        rows = self._fetch(f"SELECT kind, COUNT(*) AS pairs FROM {table} GROUP BY kind")
        found = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        return {name: found.get(kind, 0) for kind, name in enumerate(KINDS)}

    def _item_lists(self, event_type: str, order: str, query_ids: list[str]) -> pa.Array:
        rows = self._fetch(
            "SELECT o.query_id, o.item_id FROM outcomes o JOIN query_rows q ON o.query_id = q.query_id "
            f"WHERE o.event_type = '{event_type}' ORDER BY q.ts, q.query_id, {order}"
        )
        counts = dict.fromkeys(query_ids, 0)
        for query_id in rows["query_id"].to_pylist():
            counts[query_id] += 1
        offsets = np.concatenate([[0], np.cumsum(list(counts.values()), dtype=np.int64)])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows["item_id"].combine_chunks())

    def _run(self, sql: str) -> None:
        self._engine.run(Template(sql).substitute(self._numbers))

    def _fetch(self, sql: str) -> pa.Table:
        return self._engine.fetch(Template(sql).substitute(self._numbers))

    def _scalar(self, sql: str) -> Any:
        return self._fetch(sql).column(0)[0].as_py()


def named_pairs(rows: pa.Table, pictures: pa.Table) -> pa.Table:
    """Pairs as others read them, from those of numbers; text stands once, in dictionaries.

    Args:
        rows: `a`, `b`, `kind`, `weight`.
        pictures: `image_id`, `item_id`, `view`, in the order of the pictures' numbers.
    """
    names = {name: pictures[name].combine_chunks().dictionary_encode() for name in ("image_id", "item_id", "view")}
    columns = {
        f"{name.removesuffix('_id')}_{end}": column.take(rows[end].combine_chunks())
        for name, column in names.items()
        for end in ("a", "b")
    }
    kind = pa.DictionaryArray.from_arrays(rows["kind"].combine_chunks().cast(pa.int32()), list(KINDS))
    return pa.table(columns | {"kind": kind, "weight": rows["weight"]})


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """Write named pairs, whose text is read back as text.

    Ids stand as they are: their dictionaries outgrow a page, so that Parquet would make them only to give them up.
    """
    pq.write_table(pairs, path, store_schema=False, use_dictionary=["kind", "view_a", "view_b"])
