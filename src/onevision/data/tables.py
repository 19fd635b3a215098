"""Casting tables to the contract, with errors that name table, column and row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from onevision.data.contract import TABLES, Column, Table
from onevision.errors import ContractError

if TYPE_CHECKING:
    import pandas as pd


def contract_table(name: str) -> Table:
    """The contract's table of that name; `ContractError` if there is none."""
    if name not in TABLES:
        raise ContractError(f"no table {name!r} in the contract; the tables are {', '.join(TABLES)}")
    return TABLES[name]


def cast_table(data: pa.Table | pd.DataFrame, name: str) -> pa.Table:
    """Cast a table to the contract's columns, types and nullability; columns may come in any order.

    Values are not judged here (allowed values, ranges and references are the business of `validate`).

    Raises:
        ContractError: a missing or unknown column, a value that does not fit, or a null where none may be.
    """
    table = contract_table(name)
    arrow = data if isinstance(data, pa.Table) else _from_pandas(data, name)
    check_names(arrow.schema.names, table)
    columns = [cast_column(arrow[column.name], column, name) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def check_schema(schema: pa.Schema, table: Table, place: str) -> None:
    """`ContractError` unless a file's columns have the contract's names and types, in any order."""
    check_names(schema.names, table, place)
    for column in table.columns:
        found = schema.field(column.name).type
        if found != column.type:
            raise ContractError(
                f"{place}: table {table.name!r}, column {column.name!r}: type {found}, the contract says {column.type}"
            )


def check_names(names: list[str], table: Table, place: str | None = None) -> None:
    """`ContractError` if a column is missing, unknown or repeated."""
    at = f"{place}: " if place else ""
    for column in table.columns:
        if column.name not in names:
            raise ContractError(
                f"{at}table {table.name!r} has no column {column.name!r} ({column.type}: {column.meaning}); "
                f"it has {', '.join(names) or 'no columns'}"
            )
    known = [column.name for column in table.columns]
    for name in names:
        if name not in known:
            raise ContractError(
                f"{at}table {table.name!r} has an unknown column {name!r}; its columns are {', '.join(known)}"
            )
        if names.count(name) > 1:
            raise ContractError(f"{at}table {table.name!r} has column {name!r} twice")


def cast_column(values: pa.ChunkedArray, column: Column, table: str) -> pa.ChunkedArray:
    """Cast one column; the error names the first row (from 0) that does not fit."""
    if values.null_count and not column.nullable:
        row = pc.index(pc.is_null(values), True).as_py()
        raise ContractError(f"table {table!r}, column {column.name!r}, row {row}: null, but the column may not be null")
    try:
        return _cast(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = _first_bad_row(values, column.type)
        raise ContractError(
            f"table {table!r}, column {column.name!r}, row {row}: {values[row].as_py()!r} ({values.type}) "
            f"is not a {column.type}"
        ) from None


def refuse_numbered_times(given: pa.DataType, wanted: pa.DataType) -> None:
    """`ArrowNotImplementedError` where times come as numbers, which Arrow would take for microseconds, whatever they
    count."""
    if pa.types.is_timestamp(wanted) and pa.types.is_integer(given):
        raise pa.ArrowNotImplementedError("a time as a number could be in seconds, milliseconds or microseconds")


def _cast(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if len(values):
        refuse_numbered_times(values.type, wanted)
    # nanoseconds are cut to the contract's microseconds; every other loss is an error
    return values.cast(wanted, safe=not (pa.types.is_timestamp(values.type) and pa.types.is_timestamp(wanted)))


def _first_bad_row(values: pa.ChunkedArray, wanted: pa.DataType) -> int:
    low, high = 0, len(values)  # the first bad row is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _cast(values.slice(low, middle - low), wanted)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            high = middle
    return low


def _from_pandas(frame: pd.DataFrame, name: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ContractError(f"table {name!r}: a column mixes types ({'; '.join(map(str, error.args))})") from None
