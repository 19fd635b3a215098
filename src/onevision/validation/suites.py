"""Great Expectations suites, built from the contract, that prove what is left of a snapshot.

Two kinds of frames are checked: facts (one row a table, and one a rule, with the violations that are left, counted in
SQL over all rows), and the clean tables themselves (a bounded sample of rows). Great Expectations passes an empty
frame and NaN in a range, so facts have an exact number of rows and every number has a null check beside its range.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.data.contract import TABLES, TIMESTAMP, Column, Table
from onevision.errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas as pd

TABLE_FACTS = "table facts"
RULE_FACTS = "rule facts"
_CRITICAL = {"severity": "critical"}


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation; counts only, never values."""

    suite: str
    expectation: str
    column: str
    expected: str
    success: bool
    checked: int | None
    unexpected: int | None
    severity: str


def require_great_expectations() -> Any:
    """Import Great Expectations (5 s) with its telemetry off; `MissingDependencyError` names the extra."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    try:
        import great_expectations
    except ImportError:
        raise MissingDependencyError(
            "validation needs Great Expectations: pip install 'onevision[validation]'"
        ) from None
    return great_expectations


def table_expectations(table: Table, as_of: datetime, min_rows: int) -> list[Any]:
    """Expectations about one clean table: columns, nulls, keys, allowed values, minima, times."""
    gxe = require_great_expectations().expectations
    expectations = [gxe.ExpectTableColumnsToMatchOrderedList(column_list=table.schema.names, **_CRITICAL)]
    if table.required:
        expectations.append(gxe.ExpectTableRowCountToBeBetween(min_value=min_rows, **_CRITICAL))
    for column in table.columns:
        expectations.extend(_column_expectations(gxe, column, as_of))
    return expectations


def table_fact_expectations(max_share: float) -> list[Any]:
    """Expectations about the facts of all tables: nothing lost, nothing twice, not too much set aside."""
    gxe = require_great_expectations().expectations
    return [
        gxe.ExpectTableRowCountToEqual(value=len(TABLES), **_CRITICAL),
        gxe.ExpectColumnValuesToBeInSet(column="table", value_set=list(TABLES), **_CRITICAL),
        gxe.ExpectColumnValuesToBeUnique(column="table", **_CRITICAL),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="rows_in", column_B="clean_and_quarantined", ignore_row_if="neither", **_CRITICAL
        ),
        *_within(gxe, "quarantined_share", 0, max_share),
        *_within(gxe, "rows_over_minimum", 0, None),
    ]


def rule_fact_expectations(rules: int) -> list[Any]:
    """Expectations about the facts of all rules: no row left breaks one."""
    gxe = require_great_expectations().expectations
    return [
        gxe.ExpectTableRowCountToEqual(value=rules, **_CRITICAL),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["table", "rule", "column"], **_CRITICAL),
        *_within(gxe, "violations", 0, 0),
    ]


def bounded_frame(path: Path, max_rows: int) -> pd.DataFrame:
    """A Parquet file as a data frame; of a longer one, `max_rows` rows at equal distances, read a batch at a time."""
    with pq.ParquetFile(path) as source:
        rows = source.metadata.num_rows
        chosen = np.arange(min(max_rows, rows)) * rows // max(1, min(max_rows, rows))
        parts, start = [], 0
        for batch in source.iter_batches():
            inside = chosen[slice(*np.searchsorted(chosen, [start, start + batch.num_rows]))]
            parts.append(batch.take(pa.array(inside - start)))
            start += batch.num_rows
        return pa.Table.from_batches(parts, source.schema_arrow).to_pandas()


def check_frames(frames: Mapping[str, pd.DataFrame], expectations: Mapping[str, Iterable[Any]]) -> list[Outcome]:
    """Validate each frame against the suite of its name, in an ephemeral context.

    Raises:
        RuntimeError: an expectation that could not be evaluated: a bug, never a pass.
    """
    gx = require_great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_or_update_pandas("onevision")
    outcomes: list[Outcome] = []
    for name, frame in frames.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=list(expectations[name])))
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        result = context.validation_definitions.add_or_update(definition).run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
        outcomes.extend(
            sorted((_outcome(name, one) for one in result.results), key=lambda o: (o.column, o.expectation))
        )
        if result.success == any(o.suite == name and not o.success for o in outcomes):
            raise RuntimeError(f"suite {name!r}: Great Expectations' verdict and its results disagree")
    return outcomes


def _column_expectations(gxe: Any, column: Column, as_of: datetime) -> Iterable[Any]:
    if not column.nullable:
        yield gxe.ExpectColumnValuesToNotBeNull(column=column.name, **_CRITICAL)
    if column.unique:
        yield gxe.ExpectColumnValuesToBeUnique(column=column.name, **_CRITICAL)
    if column.allowed is not None:
        yield gxe.ExpectColumnValuesToBeInSet(column=column.name, value_set=list(column.allowed), **_CRITICAL)
    if column.minimum is not None:
        yield gxe.ExpectColumnValuesToBeBetween(column=column.name, min_value=column.minimum, **_CRITICAL)
    if column.type == TIMESTAMP:
        yield gxe.ExpectColumnValuesToBeBetween(column=column.name, max_value=as_of, **_CRITICAL)


def _within(gxe: Any, column: str, low: float, high: float | None) -> list[Any]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column, **_CRITICAL),
        gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, **_CRITICAL),
    ]


def _outcome(suite: str, result: Any) -> Outcome:
    config = result.expectation_config
    info = result.exception_info
    for one in [info] if "raised_exception" in info else info.values():  # one for all, or one a metric
        if one["raised_exception"]:
            raise RuntimeError(f"suite {suite!r}: {config.type} was not evaluated: {one['exception_message']}")
    settings = {k: v for k, v in config.kwargs.items() if k not in ("batch_id", "column") and v is not None}
    expected = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(settings.items()))
    return Outcome(
        suite=suite,
        expectation=config.type.removeprefix("expect_").replace("_", " "),
        column=config.kwargs.get("column", ""),
        expected=expected,
        success=bool(result.success),
        checked=result.result.get("element_count"),
        unexpected=result.result.get("unexpected_count"),
        severity=str(getattr(config.severity, "value", config.severity)),
    )
