"""The page of one stage."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.page import metric_tables, stage_page
from onevision.reporting.templates import NOTHING, format_seconds, format_value

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Wellformed(HTMLParser):
    """Fails on a tag that is closed out of order, and collects the attributes of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def report() -> StageReport:
    return StageReport(
        "evaluate",
        counts={"queries_in": 1234567},
        metrics={"latency_ms": 12.345678, "dense/hr@10": 0.25, "generator/hr@10": 0.5, "generator/mrr@10": 0.125},
        warnings=["3 photos were <b>unreadable</b>"],
        tables=[ReportTable("Slices", ["slice", "hr@10"], [["<script>alert(1)</script>", 0.5], ["cold", None]])],
        figures=[
            Figure("Loss", "svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "falls"),
            Figure("Sheet", "png", "iVBORw0KGgo="),
            Figure("Docs", "html", '<p class="x">inner & "quoted"</p>'),
        ],
        seconds=65.0,
        peak_memory_mb=2048.0,
    )


def test_page_is_wellformed_and_every_picture_has_a_text(report: StageReport) -> None:
    parser = Wellformed()
    parser.feed(stage_page(report))
    assert parser.open == []
    assert [image["alt"] for image in parser.images] == ["Loss. falls", "Sheet"]


def test_page_loads_nothing_from_elsewhere_and_runs_no_script(report: StageReport) -> None:
    page = stage_page(report)
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|object|embed)\b", page)
    for address in re.findall(r'\b(?:src|href)="([^"]*)"', page):
        assert address.startswith("data:")


def test_text_from_data_is_escaped(report: StageReport) -> None:
    page = stage_page(report)
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;unreadable" in page


def test_page_shows_counts_metrics_time_and_memory(report: StageReport) -> None:
    page = stage_page(report)
    for text in ("1,234,567", "12.35", "1 min 05 s", "2,048 MB", "measure dense neighbours"):
        assert text.lower() in page.lower()


def test_page_of_an_empty_report_of_an_unknown_stage_is_still_a_page() -> None:
    page = stage_page(StageReport("shop-import"))
    assert "<h1>shop-import</h1>" in page


def test_systems_measured_alike_are_laid_out_side_by_side(report: StageReport) -> None:
    (table,) = metric_tables(report.metrics)
    assert table.systems == ["dense", "generator"]
    assert table.rows == [("hr@10", [0.25, 0.5]), ("mrr@10", [None, 0.125])]


def test_systems_measured_otherwise_have_tables_of_their_own() -> None:
    tables = metric_tables(
        {"dense/hr@10": 0.1, "vrq/icr": 0.5, "cascade/hr@10": 0.2, "rq_kmeans/icr": 0.4, "loss": 1.0}
    )
    assert [table.systems for table in tables] == [["dense", "cascade"], ["vrq", "rq_kmeans"]]


def test_value_and_interval_are_set_below_each_other_and_to_the_right() -> None:
    table = ReportTable("T", ["system", "hr@10"], [["dense", "40.1 [30.0, 50.2] *"], ["cascade", None]])
    page = stage_page(StageReport("evaluate", tables=[table]))
    assert '<td class="number">40.1 *<br><small class="soft">[30.0, 50.2]</small></td>' in page
    assert page.count('<td class="number">') == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NOTHING), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), (1e-7, "1.00e-07"), (98765.4, "98,765")],
)
def test_values_are_written_one_way(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (59.4, "59 s"), (3599.9, "1 h 00 min"), (61, "1 min 01 s")]
)
def test_seconds_are_written_in_the_fitting_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
