"""Charts and contact sheets of the reports."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from onevision.report import Figure
from onevision.reporting.charts import bar_panels, grouped_bars, interval_chart, line_chart, pareto_chart
from onevision.reporting.pictures import contact_sheet, thumbnail_uri

CHARTS: dict[str, Callable[[], Figure]] = {
    "line": lambda: line_chart("Loss", {"train": ([1, 2, 3], [3.0, 2.0, 1.5]), "check": ([2], [2.1])}),
    "bars": lambda: bar_panels("Codes", {"level 0": [5, 3, 1], "level 1": np.arange(64)}, y_label="items"),
    "groups": lambda: grouped_bars("VC@l", ["VC@1", "VC@2"], {"vrq": [0.7, 0.4], "rq_kmeans": [0.6, 0.2]}),
    "pareto": lambda: pareto_chart(
        "Pruning", {"mass": ([1, 2], [0.4, 0.5])}, x_label="GFLOP", y_label="hr@10", chosen=(1, 0.4), budget=0.39
    ),
    "intervals": lambda: interval_chart(
        "HR@10", [("dense", 0.3, 0.2, 0.4)], x_label="hr@10", references={"oracle": 0.6}
    ),
}


@pytest.mark.parametrize("chart", CHARTS)
def test_same_numbers_give_the_same_bytes_of_wellformed_svg(chart: str) -> None:
    first, second = CHARTS[chart](), CHARTS[chart]()
    assert first == second
    assert first.kind == "svg"
    assert ET.fromstring(first.content).tag.endswith("svg")
    assert "<dc:date>" not in first.content


def test_text_of_a_chart_stays_text_and_is_escaped() -> None:
    svg = line_chart("Loss", {"a < b": ([1, 2], [1, 2]), "c": ([1], [1])}, x_label="optimiser step").content
    assert "a &lt; b" in svg
    assert "optimiser step" in svg


def test_chart_adapts_to_a_dark_page() -> None:
    assert "prefers-color-scheme: dark" in CHARTS["line"]().content


def test_charts_with_no_data_are_still_charts() -> None:
    assert line_chart("Loss", {}).content.startswith("<svg")
    assert bar_panels("Codes", {}).content.startswith("<svg")


def test_contact_sheet_holds_every_picture_in_its_place() -> None:
    red, blue = np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    figure = contact_sheet("Pairs", [[red, blue], [blue]], ["first", "second"], tile=40)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.content))).convert("RGB"))
    assert figure.kind == "png"
    assert sheet[6 + 18 + 20, 6 + 20].tolist() == [255, 0, 0]
    assert sheet[6 + 18 + 20, 6 + 46 + 20].tolist() == [0, 0, 255]
    assert sheet[6 + 64 + 18 + 20, 6 + 20].tolist() == [0, 0, 255]


def test_contact_sheet_refuses_rows_without_labels() -> None:
    with pytest.raises(ValueError, match="1 rows"):
        contact_sheet("Pairs", [[]], [])


def test_thumbnail_is_a_small_jpeg() -> None:
    uri = thumbnail_uri(np.full((200, 100, 3), 120, np.uint8), size=64)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert image.format == "JPEG"
    assert image.size == (32, 64)
