"""What a rehearsal has to show: its totals, its page, and that it goes on where it was broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from onevision.errors import OneVisionError
from onevision.rehearsal import faults
from onevision.rehearsal.attempts import Attempt
from onevision.rehearsal.page import rehearsal_report
from onevision.rehearsal.results import NightResult, load_results, save_results, totals

SETTINGS = {"recipe": "smoke", "nights": 3}
BESIDE = {
    "baskets": {},
    "refreshed_and_frozen": {
        "all": {"searches": 50.0, **{key: [0.5, 0.4, 0.6] for key in ("refreshed", "frozen", "difference")}}
    },
}


def result(
    night: int,
    fault: str = "",
    ends: tuple[str, ...] = ("promoted",),
    expected: bool = True,
    difference: tuple[float, ...] = (0.1, 0.0, 0.2),
) -> NightResult:
    attempts = [Attempt(end, 10.0, 5.0, "run", ["because"]) for end in ends]
    judged = ends[-1] in faults.DECIDED
    return NightResult(
        night=night,
        day="2026-01-13",
        fault=fault,
        attempts=attempts,
        expected=expected,
        served_before="a",
        served_after="b" if ends[-1] == "promoted" else "a",
        items=24,
        moved=0,
        loadable=True,
        hr10={"champion": 0.5, "challenger": 0.6, "dense": 0.4} if judged else {},
        difference=list(difference) if judged else None,
        events={"happened": 9, "lost": 0, "doubled": 0} if judged else {},
    )


NIGHTS = [
    result(1),
    result(2, faults.EMPTY, ("killed", "stopped")),
    result(3, faults.SABOTAGED, ("killed", "killed", "promoted"), False),
    result(4, faults.SABOTAGED, ("killed", "killed", "kept")),
    result(5, "", ("kept",)),
    result(6, "", ("promoted",), True, (-0.2, -0.3, -0.1)),
]


def test_totals_tell_honest_challengers_from_sabotaged_ones() -> None:
    counts = totals(NIGHTS)
    assert (counts["sabotaged"], counts["sabotaged_refused"]) == (2, 1)
    assert (counts["honest_judged"], counts["honest_promoted"]) == (3, 2)
    assert (counts["honest_with_a_gain"], counts["honest_with_a_gain_promoted"]) == (2, 1)
    assert counts["bad_promotions"] == 2  # a sabotaged one, and one that is worse by more than chance
    assert counts["runs_killed"] == 5


def test_the_report_counts_what_matters_and_names_what_was_not_expected() -> None:
    report = rehearsal_report(NIGHTS, BESIDE)
    assert report.counts["items_moved"] == 0
    assert report.counts["nights_not_as_expected"] == 1
    assert report.warnings == [
        "night 3 (sabotaged challenger) ended in an unexpected way: killed, then killed, then promoted"
    ]
    assert report.metrics["cpu_seconds"] == 55.0
    tables = {table.title: table for table in report.tables}
    assert [row[3] for row in tables["Nights"].rows][:2] == ["promoted", "killed, then stopped"]
    age = tables["Nights"].columns.index("age")
    assert [row[age] for row in tables["Nights"].rows] == [0, 1, 0, 1, 2, 0]
    assert tables["What the nights were good for"].rows[0][1:3] == [50, "50.0 [40.0, 60.0]"]
    assert len(tables["Every event counted"].rows) == 5


def test_a_rehearsal_goes_on_with_the_same_settings_alone(tmp_path: Path) -> None:
    assert load_results(tmp_path / "new", SETTINGS) == []
    save_results(tmp_path, SETTINGS, NIGHTS, {"more": {}})
    assert load_results(tmp_path, SETTINGS) == NIGHTS
    with pytest.raises(OneVisionError, match="its rehearsal has nights 3, now it is 4"):
        load_results(tmp_path, SETTINGS | {"nights": 4})
    (tmp_path / "nights.json").rename(tmp_path / "other.json")
    with pytest.raises(OneVisionError, match="is not empty and holds no rehearsal"):
        load_results(tmp_path, SETTINGS)
