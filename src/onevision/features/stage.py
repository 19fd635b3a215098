"""Stage `materialize-features`: user sequences for training (point in time) and for serving (the latest)."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.data.contract import SNAPSHOT_KIND
from onevision.errors import ContractError
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import FEATURES_KIND, SERVICE
from onevision.features.history import SCHEMA, historical_rows
from onevision.features.online import REPOSITORY, open_features
from onevision.features.repository import ONLINE_STORE, copy_online_store, materialize, open_store, write_repository
from onevision.features.sequences import write_sources
from onevision.features.summary import summarize
from onevision.report import StageReport

TRAINING_SEQUENCES = "training_sequences.parquet"


def run(
    *,
    snapshot: Path,
    pairs: Path,
    out: Path,
    config: FeaturesConfig,
    seed: int,  # noqa: ARG001
    earlier: Path | None = None,
) -> StageReport:
    """Build the sequences, join them to every query, and fill the online store up to the snapshot's date.

    Args:
        snapshot: validated snapshot.
        pairs: its `pairs` artifact, for `queries.parquet`.
        seed: not used, nothing here is random.
        earlier: `features` of an earlier snapshot, of which days that did not change are taken; the artifact is the
            same with and without it.
    """
    started = time.perf_counter()
    parents = {"snapshot": open_artifact(snapshot, SNAPSHOT_KIND), "pairs": open_artifact(pairs, "pairs")}
    as_of = datetime.fromisoformat(parents["snapshot"].extra["as_of"])
    queries = pq.read_table(parents["pairs"].file("queries.parquet"), columns=["query_id", "user_id", "ts", "split"])
    _require_unique(queries)
    start_artifact(out)
    folder = out / REPOSITORY
    write_repository(folder, config)
    source_rows = write_sources(snapshot, folder, config, open_features(earlier).file(REPOSITORY) if earlier else None)
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


def _require_unique(queries: pa.Table) -> None:
    if pc.count_distinct(queries["query_id"]).as_py() == queries.num_rows:
        return
    counts = queries["query_id"].value_counts()
    repeated = pc.filter(pc.struct_field(counts, "values"), pc.greater(pc.struct_field(counts, "counts"), 1))
    raise ContractError(
        f"queries.parquet: {len(repeated)} query ids stand in more than one row, such as {repeated[0].as_py()!r}; "
        "one row a query is right"
    )
