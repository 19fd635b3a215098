"""The rules of validation, built from the contract: each is an SQL condition that is true of a bad row.

A rule reads the row as `t`, tables as they came as `raw_<table>`, and what is left of them as `left_<table>`.
Local rules look at the table as it came; linked rules look at what other rules have left and are repeated until
nothing changes, so that a row which points at a row set aside is set aside as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from onevision.data.contract import CATALOGUE_VIEWS, TABLES, TIMESTAMP, Column, Severity, Table

NULL, NOT_A_NUMBER, NOT_ALLOWED, BELOW_MINIMUM, FUTURE = (
    "null",
    "not a number",
    "not allowed",
    "below minimum",
    "future",
)
UNKNOWN, DUPLICATE, NOT_A_LEAF, CYCLE = "unknown reference", "duplicate", "not a leaf", "cycle"
BAD_PICTURE, SET_ASIDE, NO_PICTURE = "bad picture", "points at a row set aside", "no catalogue picture"
FLOOD, EARLIER_FLOOD = "click flood", "click flood of an earlier day"
BEFORE_ITEM, BEFORE_ACCOUNT, NO_MAIN = "before its item", "before its account", "no main picture"


@dataclass(frozen=True)
class Rule:
    """One rule about one column.

    Attributes:
        condition: SQL, true of a bad row `t`.
        detail: SQL text that says more than column and value; the reason is `name: column value detail`.
        linked: whether the rule depends on what other rules have left.
    """

    table: str
    name: str
    column: str
    condition: str
    detail: str = "''"
    severity: Severity = "quarantine"
    linked: bool = False

    @property
    def reason(self) -> str:
        """SQL text of why the row is bad; values are cut at 80 characters."""
        value = f"COALESCE(' ' || LEFT(CAST(t.{self.column} AS VARCHAR), 80), '')"
        return f"'{self.name}: {self.column}' || {value} || {self.detail}"


def contract_rules(as_of: datetime, empty: set[str]) -> list[Rule]:
    """All rules, in the order in which they are tried: the first that is true gives the reason.

    Args:
        as_of: the snapshot's date; no time may be later.
        empty: tables without a row; references to one that may be empty are not checked.
    """
    rules: list[Rule] = []
    for table in TABLES.values():
        for column in table.columns:
            rules.extend(_column_rules(table, column, as_of, empty))
        rules.extend(_shop_rules(table.name))
        rules.append(_duplicate_rule(table))
    for table in TABLES.values():
        rules.extend(_link_rule(table, column) for column in table.columns if _checked_reference(column, empty))
    return [*rules, *_picture_rules(), *_warning_rules()]


def _column_rules(table: Table, column: Column, as_of: datetime, empty: set[str]) -> Iterator[Rule]:
    name = f"t.{column.name}"
    if not column.nullable:
        yield Rule(table.name, NULL, column.name, f"{name} IS NULL")
    if pa.types.is_floating(column.type):
        yield Rule(table.name, NOT_A_NUMBER, column.name, f"NOT isfinite({name})")
    if column.allowed is not None:
        detail = _text(f", allowed are {', '.join(column.allowed)}")
        yield Rule(table.name, NOT_ALLOWED, column.name, f"{name} NOT IN {_sql_list(column.allowed)}", detail)
    if column.minimum is not None:
        detail = _text(f", at least {column.minimum:g}")
        yield Rule(table.name, BELOW_MINIMUM, column.name, f"{name} < {column.minimum}", detail)
    if column.type == TIMESTAMP:
        detail = _text(f", the snapshot is of {as_of.isoformat()}")
        yield Rule(table.name, FUTURE, column.name, f"{name} > TIMESTAMPTZ '{as_of.isoformat()}'", detail)
    if _checked_reference(column, empty):
        other, key = _reference(column)
        missing = f"{name} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM raw_{other} r WHERE r.{key} = {name})"
        yield Rule(table.name, UNKNOWN, column.name, missing, _text(f" is in no row of {other}.{key}"))


def _shop_rules(table: str) -> Iterator[Rule]:
    if table == "categories":
        in_cycle = "t.category_id IN (SELECT category_id FROM cyclic_categories)"
        yield Rule(table, CYCLE, "parent_id", in_cycle, _text(" is below its own child"))
    if table == "items":
        parents = "SELECT parent_id FROM raw_categories WHERE parent_id IS NOT NULL"
        yield Rule(table, NOT_A_LEAF, "category_id", f"t.category_id IN ({parents})", _text(" has categories below it"))
    if table == "images":
        why = "COALESCE(' ' || (SELECT MIN(b.why) FROM bad_pictures b WHERE b.image_id = t.image_id), '')"
        yield Rule(table, BAD_PICTURE, "image_id", "t.image_id IN (SELECT image_id FROM bad_pictures)", why)


def _duplicate_rule(table: Table) -> Rule:
    """The first good row of a key stays; a key is counted before it is numbered, to keep the window small."""
    left, key = f"left_{table.name}", table.key
    repeated = f"SELECT {key} FROM {left} GROUP BY {key} HAVING COUNT(*) > 1"
    numbered = (
        f"SELECT row, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY row) AS n FROM {left} WHERE {key} IN ({repeated})"
    )
    again = f"t.row IN (SELECT row FROM ({numbered}) numbered WHERE n > 1)"
    return Rule(table.name, DUPLICATE, key, again, _text(" stands in an earlier row"))


def _link_rule(table: Table, column: Column) -> Rule:
    other, key = _reference(column)
    gone = f"t.{column.name} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM left_{other} r WHERE r.{key} = t.{column.name})"
    return Rule(table.name, SET_ASIDE, column.name, gone, _text(f" was set aside from {other}"), linked=True)


def _picture_rules() -> Iterator[Rule]:
    views = f"SELECT 1 FROM left_images p WHERE p.item_id = t.item_id AND p.view IN {_sql_list(CATALOGUE_VIEWS)}"
    detail = _text(f" has no picture left of view {' or '.join(CATALOGUE_VIEWS)}, so it cannot be found")
    yield Rule("items", NO_PICTURE, "item_id", f"NOT EXISTS ({views})", detail, linked=True)


def _warning_rules() -> Iterator[Rule]:
    main = "SELECT 1 FROM left_images p WHERE p.item_id = t.item_id AND p.view = 'main'"
    yield Rule("items", NO_MAIN, "item_id", f"NOT EXISTS ({main})", severity="warn")
    entered = "SELECT 1 FROM left_items i WHERE i.item_id = t.item_id AND i.created_at > t.ts"
    yield Rule("events", BEFORE_ITEM, "ts", f"EXISTS ({entered})", severity="warn")
    account = "SELECT 1 FROM left_users u WHERE u.user_id = t.user_id AND u.created_at > t.ts"
    yield Rule("events", BEFORE_ACCOUNT, "ts", f"EXISTS ({account})", severity="warn")


def _checked_reference(column: Column, empty: set[str]) -> bool:
    if column.references is None:
        return False
    other, _ = _reference(column)
    return TABLES[other].required or other not in empty


def _reference(column: Column) -> tuple[str, str]:
    assert column.references is not None
    other, _, key = column.references.partition(".")
    return other, key


def _sql_list(values: tuple[str, ...]) -> str:
    return "(" + ", ".join(_text(value) for value in values) + ")"


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"
