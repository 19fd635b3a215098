"""Promises of the Great Expectations suites: clean tables pass, and every kind of dirt makes them fail."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.snapshots import AS_OF, make_tables

from onevision.data.contract import TABLES
from onevision.validation.suites import (
    Outcome,
    bounded_frame,
    check_frames,
    rule_fact_expectations,
    table_expectations,
    table_fact_expectations,
)

FACTS = pd.DataFrame(
    [
        {"table": name, "rows_in": 10, "clean_and_quarantined": 10, "quarantined_share": 0.0, "rows_over_minimum": 9}
        for name in TABLES
    ]
)
RULES = pd.DataFrame(
    [{"table": "items", "rule": "null", "column": column, "violations": 0} for column in ("item_id", "price")]
)
DIRT = {
    "missing column": ("items", lambda f: f.drop(columns="price"), "table columns to match ordered list"),
    "empty": ("items", lambda f: f.iloc[:0], "table row count to be between"),
    "null": ("items", lambda f: f.assign(category_id=[None, *f["category_id"][1:]]), "column values to not be null"),
    "NaN": ("items", lambda f: f.assign(price=[np.nan, *f["price"][1:]]), "column values to not be null"),
    "negative": ("items", lambda f: f.assign(price=[-1.0, *f["price"][1:]]), "column values to be between"),
    "repeated": ("items", lambda f: pd.concat([f, f.iloc[:1]]), "column values to be unique"),
    "view": ("images", lambda f: f.assign(view=["side", *f["view"][1:]]), "column values to be in set"),
    "future": ("events", lambda f: f.assign(ts=f["ts"] + timedelta(days=30)), "column values to be between"),
    "position": ("events", lambda f: f.assign(position=[0, *f["position"][1:]]), "column values to be between"),
}


def failures(outcomes: list[Outcome], suite: str) -> set[str]:
    return {outcome.expectation for outcome in outcomes if outcome.suite == suite and not outcome.success}


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return {name: table.to_pandas() for name, table in make_tables()[0].items()}


def test_clean_tables_pass_and_each_kind_of_dirt_fails(frames: dict[str, pd.DataFrame]) -> None:
    checked = dict(frames) | {
        name: spoil(frames[table]) for name, (table, spoil, _) in DIRT.items() if name != "missing column"
    }
    suites = {name: table_expectations(TABLES[DIRT[name][0] if name in DIRT else name], AS_OF, 1) for name in checked}
    outcomes = check_frames(checked, suites)
    for name in frames:
        assert failures(outcomes, name) == set()
    for name, (_, _, expectation) in DIRT.items():
        if name != "missing column":
            assert failures(outcomes, name) == {expectation}, name


def test_expectation_that_cannot_be_evaluated_is_an_error_and_no_pass(frames: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(RuntimeError, match="was not evaluated"):
        check_frames(
            {"items": frames["items"].drop(columns="price")}, {"items": table_expectations(TABLES["items"], AS_OF, 1)}
        )


@pytest.mark.parametrize(
    ("column", "value", "expectation"),
    [
        ("clean_and_quarantined", 9, "column pair values to be equal"),
        ("quarantined_share", 0.2, "column values to be between"),
        ("quarantined_share", np.nan, "column values to not be null"),
        ("rows_over_minimum", -1, "column values to be between"),
    ],
)
def test_facts_that_do_not_add_up_fail(column: str, value: float, expectation: str) -> None:
    dirty = FACTS.assign(**{column: [value, *FACTS[column][1:]]})
    outcomes = check_frames(
        {"good": FACTS, "bad": dirty}, {name: table_fact_expectations(0.05) for name in ("good", "bad")}
    )
    assert failures(outcomes, "good") == set()
    assert failures(outcomes, "bad") == {expectation}


def test_missing_facts_and_remaining_violations_fail() -> None:
    frames = {"good": RULES, "none": RULES.iloc[:0], "one broken": RULES.assign(violations=[0, 3])}
    outcomes = check_frames(frames, {name: rule_fact_expectations(len(RULES)) for name in frames})
    assert failures(outcomes, "good") == set()
    assert failures(outcomes, "none") == {"table row count to equal"}
    assert failures(outcomes, "one broken") == {"column values to be between"}


def test_outcomes_hold_counts_and_no_values(frames: dict[str, pd.DataFrame]) -> None:
    secret = frames["items"].assign(price=-12345.678)
    outcomes = check_frames({"items": secret}, {"items": table_expectations(TABLES["items"], AS_OF, 1)})
    failed = next(outcome for outcome in outcomes if not outcome.success)
    assert (failed.checked, failed.unexpected, failed.severity) == (24, 24, "critical")
    assert "12345" not in repr(outcomes)


def test_sample_of_a_long_table_is_bounded_and_spread(tmp_path: Path) -> None:
    table = make_tables()[0]["events"]
    path = tmp_path / "events.parquet"
    pq.write_table(table, path, row_group_size=7)
    whole = table.to_pandas()
    pd.testing.assert_frame_equal(bounded_frame(path, 10_000), whole)
    spread = [i * len(whole) // 10 for i in range(10)]
    pd.testing.assert_frame_equal(bounded_frame(path, 10), whole.iloc[spread].reset_index(drop=True))
    pq.write_table(table.slice(0, 0), path)
    pd.testing.assert_frame_equal(bounded_frame(path, 10), whole.iloc[:0])
