"""The report of a rehearsal: what every night did, what the shop was served, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onevision.rehearsal.results import NightResult, totals
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import bar_panels, line_chart

_BASKETS = {"all": "all baskets", "searched": "baskets with a search"}
PARTS = {"all": "all searches", "new": "searches for items that entered after night 0"}


def rehearsal_report(nights: list[NightResult], measured: Mapping[str, Any]) -> StageReport:
    """Totals, a table of the nights, and charts of quality, items and cost.

    Args:
        measured: over all nights: `refreshed_and_frozen`, see `frozen.compared`; `baskets`, see `baskets`.
    """
    unexpected = [n for n in nights if not n.expected]
    tables = [
        _beside_frozen(measured["refreshed_and_frozen"]),
        _baskets(measured["baskets"]),
        _table(nights),
        _events(nights),
        _reasons(nights),
    ]
    return StageReport(
        "simulate-nights",
        counts=totals(nights),
        metrics={"cpu_seconds": sum(n.cpu_seconds for n in nights)},
        warnings=[
            f"night {n.night} ({n.fault or 'no fault'}) ended in an unexpected way: {_ends(n)}" for n in unexpected
        ],
        tables=[table for table in tables if table.rows],
        figures=_figures(nights),
    )


def _table(nights: list[NightResult]) -> ReportTable:
    age = _ages(nights)
    rows = [
        [
            n.night,
            n.day,
            n.fault,
            _ends(n),
            "as expected" if n.expected else "NOT as expected",
            _points(n.hr10.get("champion")),
            _points(n.hr10.get("challenger")),
            "" if n.difference is None else _percent(n.difference),
            n.items,
            age[n.night],
            n.moved,
            round(n.cpu_seconds, 1),
            round(sum(one.seconds for one in n.attempts) / 60, 1),
        ]
        for n in nights
    ]
    columns = ["night", "day", "fault", "ended", "", "champion", "challenger", "difference"]
    columns += ["items", "age", "moved", "CPU s", "minutes"]
    caption = (
        "HR@10 of champion and challenger on the night's own held-out searches, percent, and their paired difference "
        "with its 95 % interval; items of the bundle served after the night, how many days old it is, and how many of "
        "the first champion's items have another semantic ID; cost of all attempts."
    )
    return ReportTable("Nights", columns, rows, caption)


def _beside_frozen(beside: Mapping[str, Any]) -> ReportTable:
    rows = [
        [PARTS[name], int(part["searches"]), *(_percent(part[key]) for key in ("refreshed", "frozen", "difference"))]
        for name, part in beside.items()
    ]
    caption = (
        "HR@10 in percent with its 95 % interval, over the searches of all days that were measured, each asked once, "
        "before any bundle had seen it. The bundle of night 0 cannot find what entered later."
    )
    columns = ["", "searches", "refreshed every night", "frozen at night 0", "difference"]
    return ReportTable("What the nights were good for", columns, rows, caption)


def _baskets(measured: Mapping[str, Any]) -> ReportTable:
    rows = [
        [_BASKETS[part], found["baskets"], name.replace("_", " "), *map(_percent, rates.values())]
        for part, found in measured.items()
        for name, rates in found.items()
        if name != "baskets"
    ]
    caption = (
        "Share of baskets with one of the first k items in them, percent, with 95 % intervals. Popularity and own "
        "frequency know all orders of the days before. With photo, the champion is shown one product of the basket; "
        "without, it ranks by popularity and what the household took before, as known when the day began."
    )
    return ReportTable("Next basket", ["", "baskets", "ranked by", "hit@1", "hit@5", "hit@10"], rows, caption)


def _events(nights: list[NightResult]) -> ReportTable:
    names = list(next((n.events for n in nights if n.events), {}))
    rows = [[n.night, n.fault, *(n.events[name] for name in names)] for n in nights if n.events]
    caption = (
        "Events of the log up to the night: taken into the night's snapshot, set aside, not delivered yet (late), "
        "lost; foreign ones were delivered but never happened. A night that stopped took nothing."
    )
    return ReportTable("Every event counted", ["night", "fault", *names], rows, caption)


def _percent(interval: list[float]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in interval))


def _ages(nights: list[NightResult]) -> dict[int, int]:
    """Night -> days since the day that the bundle served after it was made from."""
    ages, newest = {}, 0
    for one in nights:
        newest = one.night if one.promoted else newest
        ages[one.night] = one.night - newest
    return ages


def _reasons(nights: list[NightResult]) -> ReportTable:
    rows = [
        [n.night, number, one.outcome, " ".join([*one.why, *one.warnings])]
        for n in nights
        for number, one in enumerate(n.attempts, start=1)
        if one.why or one.warnings
    ]
    return ReportTable("What the nights said", ["night", "attempt", "outcome", "why, and warnings"], rows)


def _figures(nights: list[NightResult]) -> list[Figure]:
    number = [n.night for n in nights]
    quality = {name: [_points(n.hr10.get(name)) for n in nights] for name in ("champion", "challenger", "dense")}
    hr10 = line_chart(number, quality, title="HR@10 by night", x_label="night", y_label="HR@10, percent")
    cost = bar_panels({"CPU seconds": [n.cpu_seconds for n in nights]}, title="Cost by night", x_label="night, from 0")
    items = line_chart(number, {"items": [n.items for n in nights]}, title="Items", x_label="night", y_label="items")
    return [
        Figure("HR@10 by night", "svg", hr10, "A night that stopped before it measured anything leaves a gap."),
        Figure("Items that are served", "svg", items),
        Figure("Cost by night", "svg", cost, "All attempts of a night, without the stage that was running in a kill."),
    ]


def _ends(night: NightResult) -> str:
    return ", then ".join(one.outcome for one in night.attempts)


def _points(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)
