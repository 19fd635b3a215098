"""Stage `materialize-features`: user sequences for training (point in time) and for serving (the latest)."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.data.contract import SNAPSHOT_KIND
from onevision.errors import ContractError
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import FEATURES_KIND, SERVICE
from onevision.features.history import SCHEMA, historical_rows
from onevision.features.online import REPOSITORY
from onevision.features.repository import ONLINE_STORE, materialize, open_store, write_repository
from onevision.features.sequences import write_sources
from onevision.features.summary import summarize
from onevision.report import StageReport

TRAINING_SEQUENCES = "training_sequences.parquet"


def run(*, snapshot: Path, pairs: Path, out: Path, config: FeaturesConfig, seed: int) -> StageReport:  # noqa: ARG001
    """Build the sequences, join them to every query, and fill the online store up to the snapshot's date.

    Args:
        snapshot: validated snapshot.
        pairs: its `pairs` artifact, for `queries.parquet`.
        seed: not used, nothing here is random.
    """
    started = time.perf_counter()
    parents = {"snapshot": open_artifact(snapshot, SNAPSHOT_KIND), "pairs": open_artifact(pairs, "pairs")}
    as_of = datetime.fromisoformat(parents["snapshot"].extra["as_of"])
    queries = pq.read_table(parents["pairs"].file("queries.parquet"), columns=["query_id", "user_id", "ts", "split"])
    _require_unique(queries)
    start_artifact(out)
    folder = out / REPOSITORY
    write_repository(folder, config)
    source_rows = write_sources(snapshot, folder, config)
    with tempfile.TemporaryDirectory(prefix="onevision-features-") as scratch:
        store = open_store(folder, Path(scratch))
        rows = historical_rows(store, queries)
        # A row holds from a microsecond after its event, so the events of the last moment need one more.
        materialize(store, as_of + timedelta(microseconds=1))
        copy_online_store(Path(scratch) / ONLINE_STORE, folder / ONLINE_STORE)
    pq.write_table(rows.select(SCHEMA.names), out / TRAINING_SEQUENCES)
    report = summarize(rows, queries, source_rows)
    finish_artifact(
        out,
        FEATURES_KIND,
        parents=parents,
        counts=report.counts,
        extra={"as_of": as_of.isoformat(), "service": SERVICE},
    )
    report.seconds = time.perf_counter() - started
    return report


def copy_online_store(source: Path, target: Path) -> None:
    """Copy a SQLite online store so that equal content gives equal bytes: tables and rows in sorted order."""
    target.unlink(missing_ok=True)
    connection = sqlite3.connect(source)
    try:
        connection.execute("ATTACH DATABASE ? AS target", (str(target),))
        schema = connection.execute("SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL")
        for kind, name, sql in sorted(schema, key=lambda entry: (entry[0] != "table", entry[1])):
            quoted = name.replace('"', '""')
            connection.execute(sql.replace(f'"{quoted}"', f'target."{quoted}"', 1))
            if kind == "table":
                connection.execute(
                    f'INSERT INTO target."{quoted}" SELECT * FROM main."{quoted}" ORDER BY entity_key, feature_name'
                )
        connection.commit()
    finally:
        connection.close()


def _require_unique(queries: pa.Table) -> None:
    counts = queries["query_id"].value_counts().to_pylist()
    repeated = sorted(c["values"] for c in counts if c["counts"] > 1)
    if repeated:
        raise ContractError(
            f"queries.parquet: {len(repeated)} query ids stand in more than one row, such as {repeated[0]!r}; "
            "one row a query is right"
        )
