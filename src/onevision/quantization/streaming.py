"""Codes of more vectors than fit into memory: read, encode and write a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.errors import ContractError
from onevision.quantization.kmeans import BLOCK
from onevision.quantization.residual import ResidualQuantizer


def encode_file(quantizer: ResidualQuantizer, embeddings: Path, out: Path) -> int:
    """Write the codes (N, L) int16 of a file of vectors as `.npy`; returns N. Memory does not grow with N.

    Args:
        embeddings: `.npy` (N, d), or `.parquet` with a list column `embedding`.

    Raises:
        ContractError: a file that cannot be read, or vectors of another dimension than the quantiser's.
    """
    rows = 0
    levels = len(quantizer.codebook_sizes)
    with out.open("wb") as file:
        _write_header(file, (_count(embeddings), levels))
        for block in read_blocks(embeddings):
            if block.shape[1] != quantizer.dim:
                raise ContractError(f"{embeddings}: vectors of {block.shape[1]} numbers, wanted is {quantizer.dim}")
            quantizer.encode(block).tofile(file)
            rows += len(block)
    return rows


def read_blocks(path: Path, rows: int = BLOCK) -> Iterator[NDArray[np.float32]]:
    """Blocks (at most `rows`, d) of the vectors of a `.npy` or `.parquet` file, in order."""
    if path.suffix == ".parquet":
        for batch in _parquet(path).iter_batches(batch_size=rows, columns=["embedding"]):
            column = batch.column(0)
            lengths = set(column.value_lengths().unique().to_pylist())
            if column.null_count or len(lengths) != 1:
                raise ContractError(f"{path}: 'embedding' has empty rows, or rows of different lengths")
            flat = column.flatten()
            if flat.null_count:
                raise ContractError(f"{path}: 'embedding' has rows with missing numbers")
            yield flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)
        return
    table = _array(path)
    width = table.shape[1]
    # Read, not mapped: the pages of a mapped file stay in this process's memory.
    for start in range(0, len(table), rows):
        count = min(rows, len(table) - start)
        place = table.offset + start * width * table.itemsize
        yield np.fromfile(path, table.dtype, count * width, offset=place).reshape(count, width).astype(np.float32)


def _count(path: Path) -> int:
    return int(_parquet(path).metadata.num_rows) if path.suffix == ".parquet" else len(_array(path))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError(f"{path}: cannot be read ({error})") from None
    if "embedding" not in file.schema_arrow.names:
        raise ContractError(f"{path}: no column 'embedding'; it has {', '.join(file.schema_arrow.names)}")
    return file


def _array(path: Path) -> np.memmap:
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read ({error})") from None
    if not isinstance(table, np.memmap) or table.ndim != 2 or table.dtype.kind != "f" or np.isfortran(table):
        raise ContractError(f"{path}: wanted is a floating (N, d) array, rows one after another, in .npy")
    return table


def _write_header(file: object, shape: tuple[int, int]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
