"""Charts and contact sheets of the reports."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from onevision.reporting.charts import bar_panels, grouped_bars, interval_chart, line_chart, pareto_chart
from onevision.reporting.pictures import contact_sheet, thumbnail_uri

CHARTS: dict[str, Callable[[], str]] = {
    "line": lambda: line_chart([1, 2, 3], {"train": [3.0, 2.0, 1.5], "check": [None, None, 2.1]}, title="Loss"),
    "bars": lambda: bar_panels({"level 0": [5, 3, 1], "level 1": np.arange(64).tolist()}, title="Codes"),
    "groups": lambda: grouped_bars(["VC@1", "VC@2"], {"vrq": [0.7, 0.4], "rq_kmeans": [0.6, 0.2]}, title="VC@l"),
    "pareto": lambda: pareto_chart(
        {"mass": ([1, 2], [0.4, 0.5])}, title="P", x_label="GFLOP", y_label="hr@10", chosen=(1, 0.4), budget=0.39
    ),
    "intervals": lambda: interval_chart(
        [("dense", 0.3, 0.2, 0.4)], title="H", x_label="hr@10", references={"top": 0.6}
    ),
}


@pytest.mark.parametrize("chart", CHARTS)
def test_same_numbers_give_the_same_bytes_of_wellformed_svg(chart: str) -> None:
    first, second = CHARTS[chart](), CHARTS[chart]()
    assert first == second
    assert ET.fromstring(first).tag.endswith("svg")
    assert "<dc:date>" not in first


def test_text_of_a_chart_stays_text_and_is_escaped() -> None:
    svg = line_chart([1, 2], {"a < b": [1, 2], "c": [1, 2]}, title="up & down", x_label="optimiser step")
    assert "a &lt; b" in svg
    assert "<title>up &amp; down</title>" in svg
    assert "optimiser step" in svg


def test_chart_adapts_to_a_dark_page() -> None:
    assert "prefers-color-scheme: dark" in CHARTS["line"]()


def test_charts_with_no_data_are_still_charts() -> None:
    assert line_chart([], {}, title="Loss").startswith("<svg")
    assert bar_panels({}, title="Codes").startswith("<svg")


def test_contact_sheet_holds_every_picture_in_its_place() -> None:
    red, blue = np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    png = contact_sheet([[red, blue], [blue]], ["first", "second"], tile=40)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    assert sheet[6 + 18 + 20, 6 + 20].tolist() == [255, 0, 0]
    assert sheet[6 + 18 + 20, 6 + 46 + 20].tolist() == [0, 0, 255]
    assert sheet[6 + 64 + 18 + 20, 6 + 20].tolist() == [0, 0, 255]


def test_contact_sheet_refuses_rows_without_labels() -> None:
    with pytest.raises(ValueError, match="1 rows"):
        contact_sheet([[]], [])


def test_thumbnail_is_a_small_jpeg() -> None:
    uri = thumbnail_uri(np.full((200, 100, 3), 120, np.uint8), size=64)
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert image.format == "JPEG"
    assert image.size == (32, 64)
