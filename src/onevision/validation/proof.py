"""Proof that a clean snapshot meets the contract: what was written is read back, and Great Expectations judges it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from onevision.data.contract import TABLES
from onevision.errors import ContractError
from onevision.validation.config import ValidationConfig
from onevision.validation.inspection import Inspection
from onevision.validation.suites import (
    RULE_FACTS,
    TABLE_FACTS,
    Outcome,
    bounded_frame,
    check_frames,
    rule_fact_expectations,
    table_expectations,
    table_fact_expectations,
)

QUARANTINE = "quarantine"
_SAMPLE_ROWS = 200_000
"""Rows of a clean table that Great Expectations sees itself; the facts that it sees are of all rows."""


def prove(source: Inspection, written: Inspection, out: Path, config: ValidationConfig) -> list[Outcome]:
    """Judge the clean tables and the quarantine in `out`.

    Args:
        source: the tables as they came.
        written: the clean tables, opened anew.

    Raises:
        ContractError: an expectation fails; nobody should build on this snapshot.
    """
    frames = {TABLE_FACTS: table_facts(source, out, config.min_rows), RULE_FACTS: rule_facts(written)}
    expectations = {
        TABLE_FACTS: table_fact_expectations(config.max_quarantine_share),
        RULE_FACTS: rule_fact_expectations(len(written.quarantine_rules)),
    }
    for name, table in TABLES.items():
        frames[name] = bounded_frame(out / table.file, _SAMPLE_ROWS)
        expectations[name] = table_expectations(table, written.as_of, min(config.min_rows, _SAMPLE_ROWS))
    outcomes = check_frames(frames, expectations)
    failed = [outcome for outcome in outcomes if not outcome.success]
    if failed:
        listing = "; ".join(f"{o.suite}: {o.expectation} {o.column} ({o.expected})" for o in failed[:5])
        raise ContractError(f"{out}: what is left does not meet the contract: {listing}")
    return outcomes


def table_facts(source: Inspection, out: Path, min_rows: int) -> pd.DataFrame:
    """One row a table: rows that came in, and rows of the files that were written."""
    facts = []
    for name, table in TABLES.items():
        rows = source.rows[name]
        clean = pq.read_metadata(out / table.file).num_rows
        aside = pq.read_metadata(out / QUARANTINE / table.file).num_rows
        facts.append(
            {
                "table": name,
                "rows_in": rows,
                "clean_and_quarantined": clean + aside,
                "quarantined_share": source.rows_refused(name) / max(rows, 1),
                "rows_over_minimum": clean - (min_rows if table.required else 0),
            }
        )
    return pd.DataFrame(facts)


def rule_facts(written: Inspection) -> pd.DataFrame:
    """One row a rule that sets rows aside: how many rows of the clean tables break it."""
    facts = [
        {"table": rule.table, "rule": rule.name, "column": rule.column, "violations": written.violations(rule)}
        for rule in written.quarantine_rules
    ]
    return pd.DataFrame(facts)
