"""The same SQL on DuckDB and on Spark gives the same artifact, though many events happen at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.java import java_home
from support.snapshots import Tables, make_tables, save_snapshot

from onevision.artifacts import open_artifact
from onevision.pairing.config import PairingConfig
from onevision.pairing.engines import DuckDB
from onevision.pairing.stage import run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CONFIG = PairingConfig(max_pairs_per_item=5, max_co_click_pairs_per_item=3, co_click_weight=0.123456789)
FILES = ("image_pairs.parquet", "queries.parquet", "image_splits.parquet")


def make_ties(tables: Tables) -> Tables:
    """Every event at the full six hours: only the event's id orders what happened then."""
    events = tables["events"]
    floor = pc.floor_temporal(events["ts"], multiple=6, unit="hour")
    born = pc.floor_temporal(tables["images"]["created_at"], multiple=6, unit="hour")
    at = events.schema.get_field_index("ts")
    pictures = tables["images"].set_column(3, tables["images"].schema.field("created_at"), born)
    return tables | {"events": events.set_column(at, events.schema.field("ts"), floor), "images": pictures}


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Spark in one thread of this machine."""
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(java_home(folder / "java")))
        session = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
        yield session
        session.stop()


@pytest.mark.slow
def test_spark_writes_the_artifact_that_duckdb_writes(spark: SparkSession, tmp_path: Path) -> None:
    tables, images = make_tables(items=48, users=20, queries=200)
    snapshot = tmp_path / "shop [v1] {a,b}*?"
    save_snapshot(snapshot, make_ties(tables), images)
    tables_before = spark.catalog.listDatabases()
    counts = {}
    for engine in ("duckdb", "spark"):
        config = CONFIG.model_copy(update={"engine": engine})
        counts[engine] = run(snapshot=snapshot, out=tmp_path / engine, config=config, seed=7).counts
    assert counts["spark"] == counts["duckdb"]
    assert counts["duckdb"]["pairs_dropped_limit"] > 0
    for file in FILES:
        assert pq.read_table(tmp_path / "spark" / file).equals(pq.read_table(tmp_path / "duckdb" / file)), file
    kinds = pq.read_table(tmp_path / "duckdb" / "image_pairs.parquet")["kind"].unique().to_pylist()
    assert set(kinds) == {"same_item", "query_click", "query_cart", "query_order", "co_click"}
    assert spark.catalog.listDatabases() == tables_before


def test_path_is_no_pattern(tmp_path: Path) -> None:
    save_snapshot(tmp_path / "a", *make_tables(queries=40))
    named = tmp_path / "[ab]"
    save_snapshot(named, *make_tables())
    run(snapshot=named, out=tmp_path / "pairs", config=CONFIG, seed=7)
    events = make_tables()[0]["events"].num_rows
    assert open_artifact(tmp_path / "pairs", "pairs").counts["events_in"] == events


def test_duckdb_spills_what_its_memory_does_not_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": pa.array(range(1_000))}), tmp_path / "numbers.parquet")
    engine = DuckDB(memory_gb=0.1, spill=str(tmp_path / "spill"))
    engine.add_parquet("numbers", tmp_path / "numbers.parquet")
    engine.run(
        "CREATE TABLE wide AS SELECT a.n * 1000 + b.n AS n, MD5(CAST(a.n * b.n AS VARCHAR)) AS hash "
        "FROM numbers a CROSS JOIN numbers b CROSS JOIN (SELECT n FROM numbers WHERE n < 4) c"
    )
    assert list((tmp_path / "spill").iterdir())
    assert engine.fetch("SELECT COUNT(*) AS rows FROM wide")["rows"].to_pylist() == [4_000_000]
    engine.close()
