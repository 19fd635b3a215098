"""Where the SQL of pairing runs: DuckDB in bounded memory, or Spark where a click log outgrows one machine.

An engine reads Parquet files and Arrow tables as views and runs the same text; both know `unix_micros(moment)` and
`hash64(text)`, whose values differ between engines: it is for telling texts apart.
"""

from __future__ import annotations

import glob
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

import duckdb
import pyarrow as pa

from onevision.errors import MissingDependencyError
from onevision.pairing.config import PairingConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Engine(Protocol):
    """What runs SQL text."""

    def add_parquet(self, name: str, path: Path) -> None:
        """Make a view of a Parquet file, whatever characters its path has."""

    def add_table(self, name: str, table: pa.Table) -> None:
        """Make a view of an Arrow table."""

    def run(self, sql: str) -> None:
        """Run a statement."""

    def fetch(self, sql: str) -> pa.Table:
        """The rows of a query."""


class DuckDB:
    """DuckDB in this process.

    Args:
        memory_gb: what it may hold in memory; the rest is spilled.
        spill: folder to spill to.
    """

    def __init__(self, memory_gb: float, spill: str) -> None:
        self._connection = duckdb.connect(
            config={
                "memory_limit": f"{round(memory_gb * 1000)}MB",
                "temp_directory": spill,
                "preserve_insertion_order": False,  # every query that is read says its order; keeping it costs memory
            }
        )
        self._connection.execute("CREATE MACRO unix_micros(moment) AS epoch_us(moment)")
        self._connection.execute("CREATE MACRO hash64(text) AS hash(text)")

    def add_parquet(self, name: str, path: Path) -> None:
        """See `Engine`."""
        self._connection.read_parquet(glob.escape(str(path))).create_view(name)

    def add_table(self, name: str, table: pa.Table) -> None:
        """See `Engine`."""
        self._connection.register(name, table)

    def run(self, sql: str) -> None:
        """See `Engine`."""
        self._connection.execute(sql)

    def fetch(self, sql: str) -> pa.Table:
        """See `Engine`."""
        return self._connection.execute(sql).to_arrow_table()

    def close(self) -> None:
        """Free its memory."""
        self._connection.close()


class Spark:
    """Spark: the session that is there, or a new one with the settings of the environment; its workers read `path`s.

    The views are those of a session of their own, the tables those of a database of their own.
    """

    def __init__(self) -> None:
        try:
            from pyspark.sql import SparkSession
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "pairing.engine is spark, which needs PySpark (and Java 17 or later): pip install 'onevision[spark]'"
            ) from None
        running = SparkSession.getActiveSession()
        shared = running or SparkSession.builder.appName("onevision pair").getOrCreate()
        self._started = shared if running is None else None
        self._session: SparkSession = shared.newSession()
        self._database = f"onevision_{uuid4().hex}"
        self._session.sql(f"CREATE DATABASE {self._database}")
        self._session.sql(f"USE {self._database}")
        self._session.sql("CREATE TEMPORARY FUNCTION hash64(text STRING) RETURNS BIGINT RETURN xxhash64(text)")

    def add_parquet(self, name: str, path: Path) -> None:
        """See `Engine`."""
        literal = re.sub(r"([\\\[\]{}*?])", r"\\\1", str(path.resolve()))
        self._session.read.parquet(literal).createTempView(name)

    def add_table(self, name: str, table: pa.Table) -> None:
        """See `Engine`."""
        self._session.createDataFrame(table).createTempView(name)

    def run(self, sql: str) -> None:
        """See `Engine`."""
        self._session.sql(sql)

    def fetch(self, sql: str) -> pa.Table:
        """See `Engine`."""
        rows = self._session.sql(sql).toArrow()
        return pa.table(rows.columns, rows.column_names)  # DuckDB's columns are all nullable

    def close(self) -> None:
        """Drop its tables, and end the session if this started it."""
        self._session.sql(f"DROP DATABASE {self._database} CASCADE")
        if self._started is not None:
            self._started.stop()


@contextmanager
def open_engine(config: PairingConfig) -> Iterator[Engine]:
    """The engine that the recipe names.

    Raises:
        MissingDependencyError: Spark is asked for and PySpark is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="onevision-pair-") as spill:
        engine = Spark() if config.engine == "spark" else DuckDB(config.memory_gb, spill)
        try:
            yield engine
        finally:
            engine.close()
