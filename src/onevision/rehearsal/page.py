"""The report of a rehearsal: what every night did, what the shop was served, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import bar_panels, line_chart

if TYPE_CHECKING:
    from onevision.rehearsal.nights import NightResult


def rehearsal_report(nights: list[NightResult]) -> StageReport:
    """Counts, a table of the nights, and charts of quality, items and cost."""
    unexpected = [n for n in nights if not n.expected]
    return StageReport(
        "simulate-nights",
        counts={
            "nights": len(nights),
            "nights_with_a_fault": sum(bool(n.fault) for n in nights),
            "nights_promoted": sum(n.outcome == "promoted" for n in nights),
            "nights_not_as_expected": len(unexpected),
            "items_moved": max((n.moved for n in nights), default=0),
        },
        metrics={"cpu_seconds": sum(n.cpu_seconds for n in nights)},
        warnings=[
            f"night {n.night} ({n.fault or 'no fault'}) ended in an unexpected way: {_ends(n)}" for n in unexpected
        ],
        tables=[_table(nights), _reasons(nights)],
        figures=_figures(nights),
    )


def _table(nights: list[NightResult]) -> ReportTable:
    rows = [
        [
            n.night,
            n.day,
            n.fault,
            _ends(n),
            "as expected" if n.expected else "NOT as expected",
            _points(n.hr10.get("champion")),
            _points(n.hr10.get("challenger")),
            "" if n.difference is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in n.difference)),
            n.items,
            n.moved,
            round(n.cpu_seconds, 1),
        ]
        for n in nights
    ]
    columns = ["night", "day", "fault", "ended", "", "champion", "challenger", "difference", "items", "moved", "CPU s"]
    caption = (
        "HR@10 of champion and challenger on the night's own held-out searches, percent, and their paired difference "
        "with its 95 % interval; items of the bundle served after the night, and how many of the first champion's have "
        "another semantic ID."
    )
    return ReportTable("Nights", columns, rows, caption)


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
