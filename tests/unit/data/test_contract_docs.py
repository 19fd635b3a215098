"""The data page is generated from the contract, and its worked example works."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.snapshots import make_tables

from onevision.data.contract import TABLES
from onevision.data.contract_docs import fill_page, render_contract
from onevision.data.folder import import_folder
from onevision.data.snapshot import Snapshot
from onevision.errors import ContractError

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_page_says_what_the_contract_says() -> None:
    page = PAGE.read_text()
    assert fill_page(page) == page, "run: python -m onevision.data.contract_docs docs/data.md"
    for table in TABLES.values():
        for column in table.columns:
            assert column.meaning in page


def test_every_rule_of_a_column_is_told() -> None:
    lines = {line.split("|")[1].strip(): line for line in render_contract().splitlines() if line.startswith("| `")}
    assert "one of `impression`, `click`, `cart`, `order`" in lines["`event_type`"]
    assert "may be null; at least 1" in lines["`position`"]
    assert "may be null; in `images.image_id`" in lines["`query_image_id`"]


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ContractError, match="no block between"):
        fill_page("# Data\n")


def test_the_worked_example_works(tmp_path: Path) -> None:
    page = PAGE.read_text()
    files = dict(re.findall(r"^`(\w+\.csv)`\n```csv\n(.*?)```", page, flags=re.S | re.M))
    assert sorted(files) == ["categories.csv", "events.csv", "images.csv", "items.csv"]
    shop, pictures = tmp_path / "shop", make_tables(items=8, users=4, queries=4)[1]
    for name, text in files.items():
        shop.mkdir(exist_ok=True)
        (shop / name).write_text(text)
    for line, (_, data) in zip(files["images.csv"].splitlines()[1:], pictures, strict=False):
        path = shop / line.rsplit(",", 1)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = import_folder(shop, tmp_path / "snapshot")
    told = re.findall(r"^\| `(quarantine/\w+\.parquet)` \| `(.*)` \|$", page, flags=re.M)
    assert told == [
        (f"quarantine/{name}.parquet", reason)
        for name in ("items", "images", "events")
        for reason in pq.read_table(tmp_path / "snapshot" / "quarantine" / f"{name}.parquet")["reason"].to_pylist()
    ]
    assert sum(count for key, count in report.counts.items() if key.endswith("_quarantined")) == len(told) == 3
    snapshot = Snapshot.open(tmp_path / "snapshot")
    assert snapshot.table("users")["user_id"].to_pylist() == ["anna", "ben"]
    assert snapshot.artifact.extra["query_images"] == "unknown"
