"""Snapshots that the writer of the library would refuse, for tests of what must not be trusted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.snapshots import Images, make_tables, save_snapshot

from onevision.artifacts import finish_artifact, open_artifact
from onevision.data.contract import TABLES


def damaged_snapshot(path: Path, changed: Mapping[str, pa.Table], images: Images | None = None) -> Path:
    """The tiny shop with some tables (any schema, any rows) and perhaps the pictures replaced, and a sound manifest."""
    tables, sound_images = make_tables()
    save_snapshot(path, tables, sound_images if images is None else images)
    artifact = open_artifact(path)
    for name, table in changed.items():
        pq.write_table(table, path / TABLES[name].file)
    finish_artifact(path, artifact.kind, counts=artifact.counts, extra=artifact.extra)
    return path


def altered(table: pa.Table, row: int, **values: object) -> pa.Table:
    """The table with some values of one row replaced; columns may then hold nulls."""
    columns = []
    for field in table.schema:
        column = table[field.name].to_pylist()
        if field.name in values:
            column[row] = values[field.name]
        columns.append(pa.array(column, field.type))
    return pa.table(columns, names=table.schema.names)


def png_of_zeros(width: int, height: int) -> bytes:
    """A whole PNG of black pixels, cheap even where it would take gigabytes to decode: 1 bit a pixel, compressed."""
    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
