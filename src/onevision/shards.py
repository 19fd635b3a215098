"""Shards: work on many rows in n parts that run apart and resume apart.

A shard is a contiguous range of whole blocks of rows. Blocks do not depend on n and each is computed in one piece, so
the results are the same, byte by byte, whatever n is. A finished shard is an artifact like any other; one that was
killed has no manifest and is done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onevision.artifacts import Artifact, open_artifact
from onevision.errors import ArtifactError, OneVisionError

ROW_GROUP = 1 << 20
"""Rows a row group of the Parquet files that are put together."""
ROWS_A_BATCH = 1 << 20
"""Rows that are read at a time from a table that a shard scans."""


@dataclass(frozen=True, order=True)
class Shard:
    """Part `number` (1 .. `count`) of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/3` -> the second of three."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise OneVisionError(f"shard {text!r}: write it as 2/3, the second of three")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def rows(self, total: int, block: int) -> range:
        """Its rows of `total`; it may be empty where there are fewer blocks than shards."""
        blocks = -(-total // block)
        first, last = ((number * blocks // self.count) * block for number in (self.number - 1, self.number))
        return range(min(first, total), min(last, total))


def all_shards(count: int) -> list[str]:
    """`["1/3", "2/3", "3/3"]` for 3."""
    return [str(Shard(number, count)) for number in range(1, count + 1)]


def open_shards(folders: Sequence[Path], kind: str) -> list[Artifact]:
    """The shards of one piece of work, in their order.

    Raises:
        ArtifactError: one is missing or given twice, or they were made from different inputs.
    """
    shards = sorted((open_artifact(folder, kind) for folder in folders), key=lambda a: Shard.parse(a.extra["shard"]))
    given = [shard.extra["shard"] for shard in shards]
    wanted = all_shards(Shard.parse(given[0]).count) if given else ["1/1"]
    if given != wanted:
        raise ArtifactError(f"the {kind} artifacts are the shards {', '.join(given)}; wanted are {', '.join(wanted)}")
    for shard in shards[1:]:
        if shard.parents != shards[0].parents:
            raise ArtifactError(f"{shard.path} and {shards[0].path}: shards of different inputs, {kind} artifacts both")
    return shards


def read_rows(path: Path, rows: range, columns: list[str]) -> pa.Table:
    """Some rows of a Parquet file; only the row groups that hold them are read."""
    file = pq.ParquetFile(path)
    parts, first = [file.schema_arrow.empty_table().select(columns)], 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        low, high = max(rows.start, first), min(rows.stop, last)
        if low < high:
            parts.append(file.read_row_group(group, columns=columns).slice(low - first, high - low))
        first = last
    return pa.concat_tables(parts)


def write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write tables below each other; the file does not depend on where one ends and the next begins."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        kept = first
        for table in tables:
            kept = pa.concat_tables([kept, table])
            while len(kept) >= ROW_GROUP:
                writer.write_table(kept.slice(0, ROW_GROUP), ROW_GROUP)
                kept = kept.slice(ROW_GROUP)
        for start in range(0, len(kept), ROW_GROUP):
            writer.write_table(kept.slice(start, ROW_GROUP), ROW_GROUP)
