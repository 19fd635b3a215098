"""Finding and setting aside bad rows, in SQL over the Parquet files of a snapshot.

Every row of a table is either left or set aside with one reason: rows in = clean + quarantined. Memory is bounded:
DuckDB spills what it cannot hold, and tables are written a batch at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.data.contract import TABLES
from onevision.validation.rules import EARLIER_FLOOD, Rule, contract_rules

_ROWS_A_BATCH = 100_000


@dataclass(frozen=True)
class Finding:
    """How many rows of a table broke one rule about one column, with an example of the reason."""

    table: str
    rule: str
    column: str
    rows: int
    example: str


class Inspection:
    """The tables of a snapshot folder, and which of their rows are set aside.

    Args:
        folder: holds one Parquet file a table, of the contract's columns and types.
        as_of: the snapshot's date.
        bad_pictures: image id -> why the picture is not usable.
        memory_gb: what DuckDB may hold in memory; the rest is spilled to the folder for temporary files.
    """

    def __init__(self, folder: Path, as_of: datetime, bad_pictures: dict[str, str], *, memory_gb: float) -> None:
        self._folder = folder
        self._spill = tempfile.TemporaryDirectory(prefix="onevision-validate-")
        limits = {"memory_limit": f"{round(memory_gb * 1000)}MB", "temp_directory": self._spill.name}
        self._connection = duckdb.connect(config=limits)
        self._connection.execute("SET TimeZone = 'UTC'")
        for name, table in TABLES.items():
            file = str(folder / table.file).replace("'", "''")
            columns = ", ".join(table.schema.names)
            self._connection.execute(
                f"CREATE VIEW raw_{name} AS SELECT file_row_number AS row, {columns} "
                f"FROM read_parquet('{file}', file_row_number = true, hive_partitioning = false)"
            )
            self._connection.execute(
                f"CREATE TABLE aside_{name} (row BIGINT, rule VARCHAR, column_name VARCHAR, reason VARCHAR)"
            )
            self._connection.execute(
                f"CREATE VIEW left_{name} AS SELECT * FROM raw_{name} WHERE row NOT IN (SELECT row FROM aside_{name})"
            )
        why = {"image_id": list(bad_pictures), "why": list(bad_pictures.values())}
        self.add_table("bad_pictures", pa.table(why, _texts("image_id", "why")))
        self.add_table("cyclic_categories", pa.table({"category_id": list(self._cycles())}, _texts("category_id")))
        self.rows = {name: self._count(f"SELECT COUNT(*) FROM raw_{name}") for name in TABLES}
        self.as_of = as_of
        rules = contract_rules(as_of, {name for name, rows in self.rows.items() if rows == 0})
        self.quarantine_rules = [rule for rule in rules if rule.severity == "quarantine"]
        self.warning_rules = [rule for rule in rules if rule.severity == "warn"]

    def set_bad_rows_aside(self) -> None:
        """Apply every rule that sets rows aside; linked ones until a round finds nothing more."""
        for rule in self.quarantine_rules:
            if not rule.linked:
                self._set_aside(rule)
        self._follow_links()

    def _follow_links(self) -> None:
        linked = [rule for rule in self.quarantine_rules if rule.linked]
        while sum([self._set_aside(rule) for rule in linked]):  # a list, so that no rule of a round is left out
            pass

    def violations(self, rule: Rule) -> int:
        """Rows among those left that break a rule."""
        return self._count(f"SELECT COUNT(*) FROM left_{rule.table} t WHERE {rule.condition}")

    def set_aside(self, rule: Rule) -> int:
        """Apply one more rule, and what follows from it in other tables; rows that it took."""
        taken = self._set_aside(rule)
        self._follow_links()
        return taken

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query over `raw_<table>`, `left_<table>` and `aside_<table>`."""
        return self._connection.execute(sql).fetchall()

    def add_table(self, name: str, table: pa.Table) -> None:
        """Let rules and queries read a further table."""
        self._connection.register(name, table)

    def rows_left(self, table: str) -> int:
        """Rows of a table that are not set aside."""
        return self._count(f"SELECT COUNT(*) FROM left_{table}")

    def rows_refused(self, table: str) -> int:
        """Rows that are set aside, but for floods of earlier days: their nights have judged these."""
        return self._count(f"SELECT COUNT(*) FROM aside_{table} WHERE rule <> '{EARLIER_FLOOD}'")

    def findings(self, table: str | None = None) -> list[Finding]:
        """What was set aside, by table, rule and column; most rows first."""
        found: list[Finding] = []
        for name in [table] if table else TABLES:
            groups = self._connection.execute(
                f"SELECT rule, column_name, COUNT(*), ARG_MIN(reason, row) FROM aside_{name} GROUP BY rule, column_name"
            ).fetchall()
            found.extend(Finding(name, *group) for group in groups)
        return sorted(found, key=lambda f: (-f.rows, f.table, f.rule, f.column))

    def warning_findings(self) -> list[Finding]:
        """Rows left that are odd, but no reason to set them aside."""
        found: list[Finding] = []
        for rule in self.warning_rules:
            if rows := self.violations(rule):
                first = f"SELECT {rule.reason} FROM left_{rule.table} t WHERE {rule.condition} ORDER BY t.row LIMIT 1"
                example = self._connection.execute(first).fetchone()[0]
                found.append(Finding(rule.table, rule.name, rule.column, rows, example))
        return found

    def write_left(self, table: str, path: Path) -> None:
        """Write the rows that are left, in the order of the file, in the contract's schema."""
        schema = TABLES[table].schema
        aside = self._connection.execute(f"SELECT row FROM aside_{table} ORDER BY row").fetchnumpy()["row"]
        path.parent.mkdir(parents=True, exist_ok=True)
        start = 0
        with (
            pq.ParquetFile(self._folder / TABLES[table].file) as source,
            pq.ParquetWriter(path, schema) as writer,
        ):
            for batch in source.iter_batches(_ROWS_A_BATCH, columns=schema.names):
                end = start + batch.num_rows
                kept = np.ones(batch.num_rows, dtype=bool)
                kept[aside[slice(*np.searchsorted(aside, [start, end]))] - start] = False
                rows = pa.Table.from_batches([batch.filter(pa.array(kept))])
                writer.write_table(rows.select(schema.names).cast(schema))
                start = end

    def write_aside(self, table: str, path: Path) -> None:
        """Write the rows set aside, in the order of the file, each with its reason."""
        columns = TABLES[table].schema
        schema = pa.schema([*(field.with_nullable(True) for field in columns), pa.field("reason", pa.string())])
        sql = (
            f"SELECT {', '.join('t.' + name for name in columns.names)}, a.reason "
            f"FROM raw_{table} t JOIN aside_{table} a ON t.row = a.row ORDER BY t.row"
        )
        self._write(sql, schema, path)

    def _set_aside(self, rule: Rule) -> int:
        return self._count(
            f"INSERT INTO aside_{rule.table} SELECT t.row, '{rule.name}', '{rule.column}', {rule.reason} "
            f"FROM left_{rule.table} t WHERE {rule.condition}"
        )

    def _write(self, sql: str, schema: pa.Schema, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        reader = self._connection.execute(sql).to_arrow_reader(_ROWS_A_BATCH)
        with pq.ParquetWriter(path, schema) as writer:
            for batch in reader:
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))

    def _cycles(self) -> Iterator[str]:
        rows = self._connection.execute(
            "SELECT category_id, parent_id FROM raw_categories ORDER BY row DESC"
        ).fetchall()
        parent_of = {category: parent for category, parent in rows if category is not None}
        for category in sorted(parent_of):
            above, seen = parent_of[category], set()
            while above is not None and above != category and above not in seen:
                seen.add(above)
                above = parent_of.get(above)
            if above == category:
                yield category

    def _count(self, sql: str) -> int:
        row = self._connection.execute(sql).fetchone()
        return int(row[0]) if row else 0


def _texts(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])
