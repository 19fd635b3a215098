"""Rows of people's own CSV and Parquet files: read as they are, cast value by value, what does not fit set aside.

Nothing is lost on the way: every row of a file ends among the kept ones or, with its number and a reason, among
those set aside. Rows are numbered as people see them: in a CSV the header is row 1, in Parquet the first row is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from csv import Error, reader
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from onevision.data.contract import Column, Table
from onevision.data.tables import refuse_numbered_times
from onevision.errors import ContractError

SUFFIXES = (".parquet", ".csv")
_TIME_HINT = "; write times as timestamps, or as ISO 8601 text"
_ZONED = r"([zZ]|[+-]\d\d:?\d\d)$"
_DATE = r"^\d{4}-\d\d-\d\d$"


@dataclass
class Rows:
    """The rows of one file.

    Attributes:
        raw: the file's columns, as they are (text for a CSV).
        numbers: (N,) row numbers in the file.
        reasons: (N,) why a row is set aside, None for a kept one.
        columns: the cast columns, aligned with `raw`.
        broken: (number, text) of CSV rows with too few or too many fields.
    """

    path: Path
    table: Table
    raw: pa.Table
    numbers: np.ndarray
    broken: list[tuple[int, str]] = field(default_factory=list)
    columns: dict[str, pa.Array] = field(default_factory=dict)
    reasons: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.reasons = np.full(len(self.numbers), None, dtype=object)

    @property
    def kept(self) -> np.ndarray:
        """(N,) whether a row still fits."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)

    @property
    def aside(self) -> int:
        """How many rows were set aside."""
        return int((~self.kept).sum()) + len(self.broken)

    def reject(self, rows: np.ndarray, reason: Callable[[int], str]) -> None:
        """Set rows (a mask) aside; the first reason given to a row stays."""
        for row in np.flatnonzero(rows & self.kept):
            self.reasons[row] = f"row {self.numbers[row]}: {reason(int(row))}"

    def cast(self, column: Column, *, required: bool) -> None:
        """Cast a column; rows whose value does not fit, or is missing where `required`, are set aside.

        Raises:
            ContractError: the whole column is of a kind that cannot be cast.
        """
        values = self.raw[column.name].combine_chunks()
        try:
            cast, bad = cast_values(values, column.type)
        except pa.ArrowNotImplementedError:
            raise ContractError(
                f"{self.path}: column {column.name!r} has type {values.type}, which cannot become {column.type} "
                f"({column.meaning})" + (_TIME_HINT if pa.types.is_timestamp(column.type) else "")
            ) from None
        self.columns[column.name] = cast
        wanted = _describe(column.type)
        self.reject(bad, lambda row: f"{column.name} {_shown(values[row].as_py())} is not {wanted}")
        if required:
            self.reject(_mask(pc.is_null(cast)), lambda _: f"{column.name} is empty")

    def reject_duplicates(self, key: str) -> None:
        """Keep the first row of each key among the rows that fit; the others are set aside."""
        rows = np.flatnonzero(self.kept)
        keys = self.columns[key].take(pa.array(rows)).dictionary_encode()
        codes = keys.indices.to_numpy()
        first = np.empty(len(keys.dictionary), dtype=np.int64)
        first[codes[::-1]] = rows[::-1]  # the last one written is the first row
        original = np.arange(len(self.numbers))
        original[rows] = first[codes]
        repeats = original != np.arange(len(self.numbers))
        values = self.columns[key]
        self.reject(repeats, lambda row: f"{key} {values[row].as_py()!r} was seen in row {self.numbers[original[row]]}")

    def fitting(self) -> pa.Table:
        """The kept rows, cast; `ContractError` if there are none where the contract wants some."""
        kept = self.kept
        if self.table.required and not kept.any():
            why = next(iter(self.quarantine()["reason"].to_pylist()), "it is empty")
            raise ContractError(f"{self.path}: no row fits the contract ({why})")
        return pa.table(self.columns).filter(pa.array(kept))

    def quarantine(self) -> pa.Table:
        """The rows set aside in the file's order: its columns as text, `row`, `reason`; a broken row is `text`."""
        out = ~self.kept
        texts = {name: _as_text(self.raw[name].filter(pa.array(out))) for name in self.raw.column_names}
        fits = pa.table(
            {**texts, "text": pa.nulls(int(out.sum()), pa.string()), "row": self.numbers[out]}
            | {"reason": pa.array(self.reasons[out], pa.string())}
        )
        columns = len(self.raw.column_names)
        broken = pa.Table.from_pylist(
            [{"text": t, "row": n, "reason": f"row {n}: not {columns} fields"} for n, t in self.broken], fits.schema
        )
        return pa.concat_tables([fits, broken]).sort_by("row")


def find_file(folder: Path, table: Table) -> Path | None:
    """The table's file in a folder, or None; `ContractError` if there are two."""
    found = [folder / f"{table.name}{suffix}" for suffix in SUFFIXES if (folder / f"{table.name}{suffix}").is_file()]
    if len(found) > 1:
        raise ContractError(f"{folder}: holds both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def read_rows(path: Path, table: Table) -> Rows:
    """Read a CSV (UTF-8, comma-separated, header first) or Parquet file; `ContractError` if it is neither."""
    try:
        rows = _read_csv(path, table) if path.suffix == ".csv" else _read_parquet(path, table)
    except (pa.ArrowInvalid, UnicodeDecodeError, Error, OSError) as error:
        kind = "comma-separated UTF-8 file with a header" if path.suffix == ".csv" else "Parquet file"
        raise ContractError(f"{path}: not a {kind} ({error})") from None
    names = rows.raw.column_names
    for name in names:
        if names.count(name) > 1:
            raise ContractError(f"{path}: column {name!r} stands there twice")
    return rows


def _read_parquet(path: Path, table: Table) -> Rows:
    raw = pq.read_table(path, partitioning=None)
    return Rows(path, table, raw, np.arange(1, raw.num_rows + 1))


def _read_csv(path: Path, table: Table) -> Rows:
    broken: list[tuple[int, str]] = []

    def skip(row: csv.InvalidRow) -> str:
        broken.append((row.number, row.text))
        return "skip"

    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(reader(stream), [])
    raw = csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),  # broken rows are numbered only without threads
        parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in header},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )
    numbers = np.setdiff1d(np.arange(2, raw.num_rows + len(broken) + 2), [number for number, _ in broken])
    blank = np.logical_and.reduce([_mask(pc.is_null(column)) for column in raw.columns])  # an empty line is no row
    return Rows(path, table, raw.filter(pa.array(~blank)), numbers[~blank], broken)


def cast_values(values: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Cast value by value: what does not fit becomes null and is marked.

    Text is read as Arrow reads it: `true`/`false`/`1`/`0`, ISO 8601 times (UTC where no zone is given), plain numbers.

    Returns:
        the cast array, and a mask (N,) of the values that do not fit (missing ones do).

    Raises:
        pa.ArrowNotImplementedError: no value of this type can be cast, or it does not say what it counts.
    """
    refuse_numbered_times(values.type, wanted)
    if pa.types.is_timestamp(wanted) and _is_text(values.type):
        values = _with_zone(values)
    if _is_text(wanted) and pa.types.is_floating(values.type):
        values = _whole_numbers(values)  # pandas turns integer keys with gaps into floats
    values.slice(0, 0).cast(wanted)
    cast = _cast_or_null(values, wanted)
    if pa.types.is_floating(wanted):
        cast = pc.if_else(pc.is_finite(cast), cast, pa.scalar(None, wanted))
    return cast, _mask(pc.and_(pc.is_null(cast), pc.is_valid(values)))


def _cast_or_null(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    try:
        # nanoseconds are cut to the contract's microseconds; every other loss is an error
        return values.cast(wanted, safe=not (pa.types.is_timestamp(values.type) and pa.types.is_timestamp(wanted)))
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, wanted)
        middle = len(values) // 2
        halves = values.slice(0, middle), values.slice(middle)
        return pa.concat_arrays([_cast_or_null(half, wanted) for half in halves])


def _with_zone(texts: pa.Array) -> pa.Array:
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.match_substring_regex(texts, _DATE), pc.binary_join_element_wise(texts, "T00:00", ""), texts)
    zoned = pc.match_substring_regex(texts, _ZONED)
    return pc.if_else(zoned, texts, pc.binary_join_element_wise(texts, "Z", ""))


def _whole_numbers(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "an ISO 8601 time"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_floating(kind):
        return "a finite number"
    return "a whole number" if pa.types.is_integer(kind) else "text"
