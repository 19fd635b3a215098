"""The newest day of a snapshot against the days before it, and against the catalogue of the champion.

The contract says what a row must be; this says what a day must be. Each measure has a range beyond which the night
stops (the day is not what it claims to be) and a narrower one beyond which it only warns. Users who clicked far more
on a day than anybody on the days before it are set aside, row by row, before anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from onevision.artifacts import open_artifact
from onevision.errors import ContractError
from onevision.report import ReportTable
from onevision.validation.config import ValidationConfig
from onevision.validation.inspection import Inspection
from onevision.validation.rules import EARLIER_FLOOD, FLOOD, UNKNOWN, Rule
from onevision.validation.suites import Outcome, check_frames, require_great_expectations

if TYPE_CHECKING:
    import pandas as pd

SUITE = "day against history"
_DAY = 86_400_000_000
_FLOODS = pa.schema([("user_id", pa.string()), ("age", pa.int64()), ("most", pa.int64())])


@dataclass(frozen=True)
class Measure:
    """One measure of the day.

    Attributes:
        value: of the day; `usual` what it was before, for the reader.
        stop, warn: ranges (low, high), None where a side is open; the night stops outside the first.
    """

    name: str
    value: float
    usual: float
    stop: tuple[float | None, float | None]
    warn: tuple[float | None, float | None]

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} (usually {self.usual:.4g})"


class DayCheck:
    """The newest day of the tables that an inspection has left.

    Args:
        champion: the bundle that is served, whose catalogue and prices the day is compared with.
    """

    def __init__(self, inspection: Inspection, champion: Path, config: ValidationConfig) -> None:
        self.inspection, self.config = inspection, config
        self.catalogue = open_artifact(champion, "bundle", verify=False).file("semantic_ids/items.parquet")
        as_of = inspection.as_of
        self.bounds = {
            "today": f"TIMESTAMPTZ '{(as_of - timedelta(days=1)).isoformat()}'",
            "since": f"TIMESTAMPTZ '{(as_of - timedelta(days=1 + config.history_days)).isoformat()}'",
        }

    def flood_rules(self) -> list[Rule]:
        """Set aside a user's events of a day on which they clicked `flood_factor` times as often as anybody did on
        the `history_days` days before.

        Every day of the log is judged, not the newest alone: a flood comes again tomorrow, as history. What was set
        aside raises no limit. The log's first `history_days` days have too little before them to be judged.
        """
        config, inspection = self.config, self.inspection
        age = f"(EPOCH_US(TIMESTAMPTZ '{inspection.as_of.isoformat()}') - EPOCH_US(t.ts)) // {_DAY}"
        days = inspection.query(
            f"""
            SELECT age, COALESCE(MAX(n) FILTER (n <= {config.flood_clicks}), 0),
              COALESCE(LIST((user_id, n)) FILTER (n > {config.flood_clicks}), [])
            FROM (
              SELECT {age} AS age, t.user_id, COUNT(*) AS n FROM left_events t
              WHERE t.event_type = 'click' GROUP BY ALL)
            GROUP BY age ORDER BY age DESC
            """
        )
        most: dict[int, int] = {}
        floods: list[dict[str, Any]] = []
        for days_ago, few, many in days:
            before = [most[d] for d in range(days_ago + 1, days_ago + 1 + config.history_days) if d in most]
            judged = bool(before) and (days_ago == 0 or days[0][0] - days_ago >= config.history_days)
            limit = max(int(config.flood_factor * max(before)), config.flood_clicks) if judged else math.inf
            floods += [{"user_id": user, "age": days_ago, "most": limit} for user, n in many if n > limit]
            most[days_ago] = max([few, *(n for _, n in many if n <= limit)])
        inspection.add_table("floods", pa.Table.from_pylist(floods, _FLOODS))
        flood = f"FROM floods f WHERE f.user_id = t.user_id AND f.age = {age}"
        detail = f"(SELECT ' clicked more than ' || f.most || ' times on the day' {flood})"
        return [
            Rule("events", name, "user_id", f"EXISTS (SELECT 1 {flood} AND {when})", detail, linked=True)
            for name, when in ((FLOOD, "f.age = 0"), (EARLIER_FLOOD, "f.age > 0"))
        ]

    def measures(self) -> list[Measure]:
        """Everything that is measured of the day; what has no history to compare with is left out."""
        return [*self._volumes(), *self._shares(), *self._catalogue(), *self._code_usage()]

    def judge(self) -> tuple[list[Measure], list[Outcome], list[str]]:
        """Let Great Expectations judge the day.

        Returns:
            the measures, what became of every expectation, and warnings.

        Raises:
            ContractError: the day is outside a range that stops the night.
        """
        measures = self.measures()
        outcomes = check_frames({SUITE: _frame(measures)}, {SUITE: list(_expectations(measures))})
        missed = {(o.column, o.severity) for o in outcomes if not o.success}
        stopping = [str(m) for m in measures if (m.name, "critical") in missed]
        if stopping:
            day = f"{self.inspection.as_of - timedelta(seconds=1):%Y-%m-%d}"
            raise ContractError(
                f"the day {day} is not like the days before it: {'; '.join(stopping)}. If it is right all the same, "
                "widen the range in the recipe's section validation"
            )
        odd = [f"odd for this shop: {m}" for m in measures if (m.name, "warning") in missed]
        return measures, outcomes, odd

    def _volumes(self) -> Iterator[Measure]:
        """Events, searches and active users: the day's as a share of the usual day's."""
        config = self.config
        for name, what in (
            ("events", "COUNT(*)"),
            ("searches", "COUNT(DISTINCT query_id)"),
            ("active users", "COUNT(DISTINCT user_id)"),
        ):
            today, usual = self._today_and_usual(f"SELECT {what} FROM left_events WHERE {{when}}")
            if usual:
                low, high = config.min_volume, config.max_volume
                yield Measure(name, today / usual, 1.0, (low, high), (low**0.5, high**0.5))

    def _shares(self) -> Iterator[Measure]:
        """Click-through, missing fields, category mix, and events of items that nobody knows."""
        clicks = "COUNT(*) FILTER (event_type = 'click')", "COUNT(*) FILTER (event_type = 'impression')"
        of_searches = f"SELECT {clicks[0]} / GREATEST({clicks[1]}, 1) FROM left_events WHERE query_id IS NOT NULL"
        today, usual = self._today_and_usual(of_searches + " AND {when}")
        if usual:
            factor = self.config.max_click_through
            yield Measure("click-through", today / usual, 1.0, (1 / factor, factor), (factor**-0.5, factor**0.5))
        for table, time, column in (
            ("events", "ts", "query_image_id"),
            ("items", "created_at", "title"),
            ("items", "created_at", "brand"),
        ):
            share = f"SELECT AVG(({column} IS NULL)::INT) FROM left_{table} WHERE {{when}}"
            today, usual = self._today_and_usual(share, time, whole=True)
            if today is not None and usual is not None:
                most = self.config.max_null_change
                name = f"{table} without {column}"
                yield Measure(name, today, usual, (None, usual + most), (None, usual + most / 2))
        yield from self._category_mix()
        unknown = self._rows(
            f"""
            SELECT COUNT(*) FILTER (a.rule = '{UNKNOWN}' AND a.column_name = 'item_id'), COUNT(*)
            FROM raw_events r LEFT JOIN aside_events a ON a.row = r.row WHERE r.ts > {{today}}
            """
        )[0]
        if unknown[1]:
            most = self.config.max_unknown_items
            yield Measure("events of unknown items", unknown[0] / unknown[1], 0.0, (None, most), (None, most / 4))

    def _category_mix(self) -> Iterator[Measure]:
        """Total variation distance of the day's clicks by category from the days before."""
        rows = self._rows(
            """
            SELECT i.category_id, COUNT(*) FILTER (e.ts > {today}), COUNT(*) FILTER (e.ts <= {today})
            FROM left_events e JOIN left_items i USING (item_id)
            WHERE e.event_type = 'click' AND e.ts > {since} GROUP BY i.category_id
            """
        )
        today, before = sum(row[1] for row in rows), sum(row[2] for row in rows)
        if today and before:
            distance = sum(abs(row[1] / today - row[2] / before) for row in rows) / 2
            most = self.config.max_category_shift
            yield Measure("category shift", distance, 0.0, (None, most), (None, 2 * most / 3))

    def _catalogue(self) -> Iterator[Measure]:
        """Items that the champion has and the day lacks, items that are new, and prices of those in both."""
        file = str(self.catalogue).replace("'", "''")
        held, both, ratio = self._rows(
            f"""
            SELECT COUNT(*), COUNT(i.item_id), MEDIAN(i.price / NULLIF(c.price, 0))
            FROM read_parquet('{file}') c LEFT JOIN left_items i ON i.item_id = c.item_id
            """
        )[0]
        config, items = self.config, self.inspection.rows_left("items")
        if held:
            gone, new = 1 - both / held, (items - both) / held
            yield Measure("items gone", gone, 0.0, (None, config.max_items_gone), (None, config.max_items_gone / 3))
            yield Measure("items new", new, 0.0, (None, config.max_items_new), (None, config.max_items_new / 3))
        if ratio is not None:
            factor = config.max_price_change
            yield Measure("price level", ratio, 1.0, (1 / factor, factor), (factor**-0.5, factor**0.5))

    def _code_usage(self) -> Iterator[Measure]:
        """How far clicks moved over the first codes of the champion's items; a shopper's count once a code and day."""
        file = str(self.catalogue).replace("'", "''")
        rows = self._rows(
            f"""
            SELECT COUNT(*) FILTER (day > {{today}}), COUNT(*) FILTER (day <= {{today}})
            FROM (
              SELECT c.sid[1] AS code, e.user_id, MAX(e.ts) AS day
              FROM left_events e JOIN read_parquet('{file}') c ON c.item_id = e.item_id
              WHERE e.event_type = 'click' AND e.ts > {{since}}
              GROUP BY code, e.user_id, e.ts > {{today}}, DATE_TRUNC('day', e.ts)
            )
            GROUP BY code
            """
        )
        today, before = [row[0] for row in rows], [row[1] for row in rows]
        if sum(today) and sum(before):
            most = self.config.max_code_psi
            yield Measure("code usage (PSI)", population_stability(today, before), 0.0, (None, most), (None, most / 4))

    def _today_and_usual(self, sql: str, time: str = "ts", *, whole: bool = False) -> tuple[Any, Any]:
        """A figure of the day, and the median of the days before; of all of them together with `whole`."""
        today = self._rows(sql.format(when=f"{time} > {{today}}"))[0][0]
        if whole:
            return today, self._rows(sql.format(when=f"{time} <= {{today}}"))[0][0]
        windows = (
            (f"{{today}} - INTERVAL {day + 1} DAY", f"{{today}} - INTERVAL {day} DAY")
            for day in range(self.config.history_days)
        )
        found = [self._rows(sql.format(when=f"{time} > {low} AND {time} <= {high}"))[0][0] for low, high in windows]
        usual = sorted(value for value in found if value)
        return today or 0, usual[len(usual) // 2] if usual else None

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.inspection.query(sql.format(**self.bounds))


def population_stability(now: Sequence[int], before: Sequence[int]) -> float:
    """Population stability index of two histograms over the same bins: the sum of (p - q) ln(p / q), at least 0.

    Half a count is added to every bin, so that an empty one is finite. What two samples of one distribution differ by
    chance, about (bins - 1) (1 / n + 1 / m), is taken off: a small shop's day would seem to drift every night.
    """
    bins, n, m = len(now), sum(now), sum(before)
    total = 0.0
    for a, b in zip(now, before, strict=True):
        p, q = (a + 0.5) / (n + bins / 2), (b + 0.5) / (m + bins / 2)
        total += (p - q) * math.log(p / q)
    return max(0.0, total - (bins - 1) * (1 / n + 1 / m))


def day_table(measures: list[Measure]) -> ReportTable:
    """Every measure with its ranges."""
    rows = [[m.name, m.value, m.usual, _range(m.warn), _range(m.stop)] for m in measures]
    caption = "The newest day beside those before it; outside the first range it is odd, outside the second it stops."
    return ReportTable(
        "The day against its history", ["measure", "day", "usually", "expected", "bounds"], rows, caption
    )


def _range(bounds: tuple[float | None, float | None]) -> str:
    low, high = ("" if bound is None else f"{bound:.3g}" for bound in bounds)
    return f"{low} to {high}" if low else f"up to {high}"


def _frame(measures: list[Measure]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({measure.name: [float(measure.value)] for measure in measures})


def _expectations(measures: list[Measure]) -> Iterator[Any]:
    gxe = require_great_expectations().expectations
    yield gxe.ExpectTableRowCountToEqual(value=1, severity="critical")
    for measure in measures:
        yield gxe.ExpectColumnValuesToNotBeNull(column=measure.name, severity="critical")
        for severity, (low, high) in (("critical", measure.stop), ("warning", measure.warn)):
            yield gxe.ExpectColumnValuesToBeBetween(
                column=measure.name, min_value=low, max_value=high, severity=severity
            )
