"""Published semantic IDs: those of a parent artifact, which a refresh never moves.

An item that the parent knows keeps its ID bit for bit, whatever its pictures say today; only new items are assigned.
One that left is listed in `gone.parquet` from then on and gets its old ID if it comes back, so that an ID means the
same item for as long as its codebooks live.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.artifacts import Artifact, require_same_generation

GONE = "gone.parquet"
SCHEMA = pa.schema([("item_id", pa.string()), ("sid", pa.list_(pa.int16()))])


@dataclass(frozen=True)
class Published:
    """P items with IDs from earlier artifacts of this generation: `item_ids`, and `codes` (P, L) int16."""

    item_ids: pa.Array
    codes: NDArray[np.int16]

    @classmethod
    def none(cls, length: int) -> Published:
        """A generation's first artifact has no parent; its IDs have `length` codes."""
        return cls(pa.array([], pa.string()), np.empty((0, length), np.int16))

    @classmethod
    def open(cls, artifact: Artifact, quantizer: Artifact) -> Published:
        """Read the items of a `semantic_ids` artifact and those that left before it.

        Raises:
            ArtifactError: it is of another generation than the quantiser.
        """
        require_same_generation(artifact, quantizer)
        tables = [pq.read_table(artifact.file(name), columns=SCHEMA.names) for name in ("items.parquet", GONE)]
        table = pa.concat_tables(table.cast(SCHEMA) for table in tables).combine_chunks()
        return cls(pc.cast(table["item_id"].combine_chunks(), pa.string()), sid_array(table["sid"]))

    def rows(self, item_ids: pa.Array) -> NDArray[np.int64]:
        """Rows (I,) of these items, -1 for new ones."""
        return pc.index_in(item_ids, self.item_ids).fill_null(-1).to_numpy().astype(np.int64)

    def write_gone(self, item_ids: pa.Array, path: Path) -> int:
        """Write the published items that are not among `item_ids`, by item id; their number."""
        absent = np.flatnonzero(pc.is_null(pc.index_in(self.item_ids, item_ids)).to_numpy(zero_copy_only=False))
        gone = pa.table([self.item_ids.take(pa.array(absent)), sid_column(self.codes[absent])], schema=SCHEMA)
        pq.write_table(gone.sort_by("item_id"), path)
        return len(absent)


def sid_array(column: pa.ChunkedArray) -> NDArray[np.int16]:
    """The `sid` column of a table, which holds at least one row, as an array (I, L)."""
    values = column.combine_chunks().flatten().to_numpy()
    return np.ascontiguousarray(values.reshape(len(column), -1), np.int16)


def sid_column(codes: NDArray[np.int16]) -> pa.Array:
    """Codes (I, L) as a column of lists."""
    offsets = np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(codes), pa.int16()))
