"""One Jinja environment for every page: autoescape on, one style sheet, numbers written one way."""

from __future__ import annotations

import base64
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "\N{EN DASH}"
_NUMBER = re.compile(r"[-+]?[\d.,]+ ?(%|\*|\[[-\d., ]+\]( \*)?)?$")
_INTERVAL = re.compile(r"([-+]?[\d.]+) (\[[-\d., ]+\])( \*)?$")


def render(template: str, **context: Any) -> str:
    """Fill a template of `reporting/templates/`; every value is escaped unless it is `Markup`."""
    return _environment().get_template(template).render(**context)


def format_value(value: Any) -> str:
    """Text of a table cell: thousands separated, four digits for floats, a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _format_float(value)
    return str(value)


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s` or `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def svg_uri(svg: str) -> str:
    """Data URI of SVG markup: as an image it can neither run scripts nor share ids with other pictures."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.2e}"


def _numeric_columns(rows: list[list[Any]], columns: int) -> list[bool]:
    """Which columns hold numbers (as such or written out, with an interval perhaps): those are set to the right."""
    cells = [[row[c] for row in rows if c < len(row) and row[c] not in (None, "")] for c in range(columns)]
    return [bool(column) and all(_is_number(cell) for cell in column) for column in cells]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and bool(_NUMBER.match(value)))


def _cell(value: Any) -> str | Markup:
    """A table's cell; the interval of `43.1 [40.9, 45.2]` goes below its value, in small."""
    text = format_value(value)
    found = _INTERVAL.match(text)
    return (
        Markup('{}{}<br><small class="soft">{}</small>').format(found[1], found[3] or "", found[2]) if found else text
    )


def _breakable(text: str) -> Markup:
    """A long name that may wrap after its underscores."""
    return Markup("_<wbr>").join(str(text).split("_"))


def _label(name: str) -> str:
    """`items_quarantined` -> `items quarantined`."""
    return name.replace("_", " ")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        value=format_value,
        cell=_cell,
        breakable=_breakable,
        seconds=format_seconds,
        label=_label,
        svg_uri=svg_uri,
        numeric_columns=_numeric_columns,
    )
    environment.globals["style"] = Markup((TEMPLATES / "style.css").read_text())
    return environment
