"""Arrays larger than memory, in safetensors files: written a few rows at a time, read as memory maps.

The files hold what `safetensors.numpy.save_file` would have written, byte by byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onevision.errors import ArtifactError

ROWS_A_COPY = 1 << 14
_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64"}
_DTYPES = {code: np.dtype(name) for name, code in _NAMES.items()}


class Layout(NamedTuple):
    """Type and shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ArrayWriter:
    """A safetensors file of arrays whose shapes are known before their values.

    Args:
        layout: name -> type and shape; rows that are never written are zeros.
    """

    def __init__(self, path: Path, layout: Mapping[str, Layout]) -> None:
        order = sorted(layout, key=lambda name: (-layout[name].dtype.itemsize, name))
        header, self._layout, self._start = {}, dict(layout), {}
        end = 0
        for name in order:
            dtype, shape = layout[name]
            start, end = end, end + dtype.itemsize * math.prod(shape)
            header[name] = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
            self._start[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data + end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; it is complete once every row was written."""
        self._file.close()

    def write(self, name: str, first: int, rows: NDArray[Any]) -> None:
        """Write rows of an array from row `first` on."""
        dtype, shape = self._layout[name]
        if rows.dtype != dtype or rows.shape[1:] != shape[1:] or first + len(rows) > shape[0]:
            raise ValueError(f"{name}: {rows.dtype}{rows.shape} at row {first} does not fit into {dtype}{shape}")
        self._file.seek(self._data + self._start[name] + first * dtype.itemsize * math.prod(shape[1:]))
        self._file.write(np.ascontiguousarray(rows).tobytes())


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file by name, read from the file as they are used; they cannot be written to."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        arrays: dict[str, NDArray[Any]] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
                start = 8 + size + entry["data_offsets"][0]
                some = math.prod(shape) > 0
                arrays[name] = np.memmap(path, dtype, "r", start, shape) if some else np.empty(shape, dtype)
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a safetensors file that can be mapped ({error!r})") from None


def concatenate_files(paths: Iterable[Path], out: Path, numbers: Mapping[str, str] | None = None) -> None:
    """Put the arrays of files together by name, along their rows, in constant memory.

    Args:
        numbers: array -> array of the same file whose rows it numbers; they are numbered over all files then.
    """
    parts = [map_arrays(path) for path in paths]
    layout = {
        name: Layout(first.dtype, (sum(len(part[name]) for part in parts), *first.shape[1:]))
        for name, first in parts[0].items()
    }
    with ArrayWriter(out, layout) as writer:
        for name in layout:
            row, shift, numbered = 0, 0, (numbers or {}).get(name)
            for part in parts:
                for start in range(0, len(part[name]), ROWS_A_COPY):
                    rows = part[name][start : start + ROWS_A_COPY]
                    writer.write(name, row, rows + shift if numbered else rows)
                    row += len(rows)
                shift += len(part[numbered]) if numbered else 0
