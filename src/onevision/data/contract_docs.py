"""The contract as Markdown, written into `docs/data.md` between its markers, so that the page cannot lie.

python -m onevision.data.contract_docs docs/data.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from onevision.data.contract import TABLES, Column, Table
from onevision.data.folder import DEFAULTS, PATH
from onevision.errors import ContractError


def render_contract() -> str:
    """One section a table: columns, types, rules and meaning."""
    return "\n".join(_table(table) for table in TABLES.values())


def render_import_columns() -> str:
    """Which columns `onevision snapshot import` needs, and what the others hold where they are left out."""
    lines = ["| file | columns that must be there | columns that may be left out or empty |", "| --- | --- | --- |"]
    for table in TABLES.values():
        needed = [c.name for c in table.columns if not c.nullable and c.name not in DEFAULTS[table.name]]
        needed += [PATH.name] if table.name == "images" else []
        optional = [f"`{name}` ({meaning})" for name, meaning in DEFAULTS[table.name].items()]
        optional += [f"`{c.name}`" for c in table.columns if c.nullable]
        optional_file = "" if table.required else " (may be missing: derived from events)"
        cells = ", ".join(f"`{name}`" for name in needed), ", ".join(optional)
        lines.append(f"| `{table.name}`{optional_file} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def fill_page(page: str) -> str:
    """The page with every marked block rendered anew; `ContractError` if a block's markers are missing."""
    for name, text in (("contract", render_contract()), ("import", render_import_columns())):
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ContractError(f"the page has no block between {begin.strip()!r} and {end!r}")
        page = f"{before}{begin}{text}{end}{after}"
    return page


def _table(table: Table) -> str:
    lines = [f"### `{table.file}`", "", table.meaning + ("" if table.required else " May be empty."), ""]
    lines += ["| column | type | rules | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.type} | {_rules(c)} | {c.meaning} |" for c in table.columns]
    return "\n".join(lines) + "\n"


def _rules(column: Column) -> str:
    rules = ["may be null"] if column.nullable else []
    rules += ["unique"] if column.unique else []
    rules += ["one of " + ", ".join(f"`{value}`" for value in column.allowed)] if column.allowed else []
    rules += [f"at least {column.minimum:g}"] if column.minimum is not None else []
    rules += [f"in `{column.references}`"] if column.references else []
    return "; ".join(rules)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(fill_page(target.read_text()))
