"""Data docs: one self-contained HTML page of what validation found.

Great Expectations' own data docs load scripts and styles from public hosts, and hold ids and times that differ from
run to run; this page holds counts and reasons alone, so that equal snapshots have equal pages.
"""

from __future__ import annotations

from importlib import resources
from itertools import groupby

from jinja2 import Environment, StrictUndefined

from onevision.data.contract import TABLES
from onevision.data.snapshot import Snapshot
from onevision.validation.inspection import Inspection
from onevision.validation.suites import Outcome

DATA_DOCS = "data_docs.html"


def data_docs(snapshot: Snapshot, inspection: Inspection, outcomes: list[Outcome]) -> str:
    """Render the page: rows of each table, reasons, oddities, and every expectation with its result."""
    template = resources.files("onevision.validation").joinpath("data_docs.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    suites = [(name, list(group)) for name, group in groupby(outcomes, key=lambda outcome: outcome.suite)]
    return environment.from_string(template).render(
        snapshot=snapshot,
        tables=[(table, inspection.rows[name], inspection.rows_left(name)) for name, table in TABLES.items()],
        findings=inspection.findings(),
        oddities=inspection.warning_findings(),
        suites=suites,
        passed=sum(outcome.success for outcome in outcomes),
        total=len(outcomes),
    )
