"""Promises of the `validate` stage, end to end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.damage import altered, damaged_snapshot, png_of_zeros
from support.snapshots import AS_OF, make_tables

from onevision.artifacts import finish_artifact, open_artifact, write_json
from onevision.data.contract import TABLES
from onevision.data.snapshot import Snapshot
from onevision.errors import ContractError
from onevision.report import StageReport
from onevision.validation.config import ValidationConfig
from onevision.validation.inspection import Inspection
from onevision.validation.stage import run

LENIENT = ValidationConfig(max_quarantine_share=0.5)


def validate(snapshot: Path, out: Path, config: ValidationConfig = LENIENT) -> StageReport:
    return run(snapshot=snapshot, out=out, config=config, seed=7)


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot with a bad row of several kinds, and four bad pictures of search photos."""
    tables, images = make_tables()
    photos = [image_id for image_id, view in zip(*columns(tables["images"], "image_id", "view"), strict=True)][-4:]
    whole = dict(images)
    spoilt = {
        photos[0]: b"<html>not found</html>",
        photos[1]: whole[photos[1]][:-100],
        photos[2]: png_of_zeros(30_000, 30_000),
    }
    pictures = [(i, spoilt.get(i, data)) for i, data in images if i != photos[3]] + [("stranger", whole[photos[0]])]
    changed = {
        "items": altered(tables["items"], 4, price=float("nan")),
        "events": altered(tables["events"], 0, item_id="i777"),
    }
    return damaged_snapshot(tmp_path_factory.mktemp("dirty") / "snapshot", changed, pictures)


@pytest.fixture(scope="module")
def cleaned(dirty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageReport]:
    out = tmp_path_factory.mktemp("cleaned") / "snapshot"
    return out, validate(dirty, out)


def columns(table: pa.Table, *names: str) -> list[list]:
    return [table[name].to_pylist() for name in names]


def test_every_row_is_clean_or_quarantined(dirty: Path, cleaned: tuple[Path, StageReport]) -> None:
    out, report = cleaned
    for name, table in TABLES.items():
        before = pq.read_table(dirty / table.file)
        after, aside = pq.read_table(out / table.file), pq.read_table(out / "quarantine" / table.file)
        assert sorted([*after[table.key].to_pylist(), *aside[table.key].to_pylist()]) == sorted(
            before[table.key].to_pylist()
        )
        counts = [report.counts[f"{name}_{what}"] for what in ("in", "out", "quarantined")]
        assert counts == [before.num_rows, after.num_rows, aside.num_rows]
        assert aside.num_rows == 0 or all(aside["reason"].to_pylist())
        assert after.schema == table.schema


def test_bad_pictures_are_quarantined_with_what_is_wrong(cleaned: tuple[Path, StageReport]) -> None:
    out, report = cleaned
    reasons = pq.read_table(out / "quarantine" / "images.parquet")["reason"].to_pylist()
    bad = [reason for reason in reasons if reason.startswith("bad picture: ")]
    for expected in ("not an image", "truncated", "over the cap", "no bytes in the image store"):
        assert sum(expected in reason for reason in bad) == 1, expected
    assert len(bad) == 4
    assert report.counts["pictures_without_row"] == 1
    assert any("1 pictures of the image store have no row" in warning for warning in report.warnings)


def test_clean_snapshot_opens_and_holds_exactly_its_pictures(cleaned: tuple[Path, StageReport]) -> None:
    snapshot = Snapshot.open(cleaned[0])
    assert snapshot.as_of == AS_OF
    assert set(snapshot.images.ids) == set(snapshot.table("images")["image_id"].to_pylist())
    assert all(snapshot.images.read_many(snapshot.images.ids))


def test_source_is_not_changed_though_shards_are_shared(dirty: Path, cleaned: tuple[Path, StageReport]) -> None:
    open_artifact(dirty, verify=True)
    shard = "images/shard-00000.tar"
    assert (cleaned[0] / shard).stat().st_ino == (dirty / shard).stat().st_ino


def test_second_validation_finds_nothing_and_keeps_what_was_set_aside(
    cleaned: tuple[Path, StageReport], tmp_path: Path
) -> None:
    report = validate(cleaned[0], tmp_path / "again", ValidationConfig())
    assert all(number == 0 for name, number in report.counts.items() if name.endswith("_quarantined"))
    for name, table in TABLES.items():
        assert pq.read_table(tmp_path / "again" / table.file) == pq.read_table(cleaned[0] / table.file), name
    assert (tmp_path / "again" / "quarantine" / "earlier" / "items.parquet").exists()


def test_same_snapshot_gives_the_same_identity(dirty: Path, cleaned: tuple[Path, StageReport], tmp_path: Path) -> None:
    validate(dirty, tmp_path / "again")
    assert open_artifact(tmp_path / "again").identity == open_artifact(cleaned[0]).identity


def test_data_docs_are_one_page_that_loads_nothing(cleaned: tuple[Path, StageReport]) -> None:
    out, report = cleaned
    page = (out / "data_docs.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "not a number: price nan" in page
    assert report.figures[0].kind == "html"
    assert report.figures[0].content == page


def test_further_files_pass_through(tiny_snapshot: Path, tmp_path: Path) -> None:
    source = damaged_snapshot(tmp_path / "source", {})
    write_json(source / "oracle.json", {"hr@10": 0.5})
    finish_artifact(source, "snapshot", extra=open_artifact(source).extra)
    validate(source, tmp_path / "out")
    assert (tmp_path / "out" / "oracle.json").read_bytes() == (source / "oracle.json").read_bytes()


def test_too_much_bad_data_stops_and_leaves_the_quarantine(dirty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    strict = ValidationConfig(max_quarantine_share=0.01)
    with pytest.raises(ContractError) as caught:
        validate(dirty, out, strict)
    message = str(caught.value)
    assert "table 'items': 1 of 24 rows (4.2%)" in message
    assert "not a number: price nan" in message
    assert str(out / "quarantine" / "items.parquet") in message
    assert pq.read_table(out / "quarantine" / "items.parquet").num_rows == 1
    assert not (out / "manifest.json").exists()


def test_fewer_rows_than_wanted_stop(tiny_snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ContractError, match=r"table 'categories'.*6 rows are left of 6, fewer than validation\.min_rows"
    ):
        validate(tiny_snapshot, tmp_path / "out", ValidationConfig(min_rows=7))


def test_empty_table_is_refused(tmp_path: Path) -> None:
    tables, _ = make_tables()
    source = damaged_snapshot(tmp_path / "source", {"events": tables["events"].slice(0, 0)})
    with pytest.raises(ContractError, match=r"events\.parquet: table 'events' is empty; it is required"):
        validate(source, tmp_path / "out")


def test_missing_column_is_refused(tmp_path: Path) -> None:
    tables, _ = make_tables()
    source = damaged_snapshot(tmp_path / "source", {"items": tables["items"].drop_columns("price")})
    with pytest.raises(ContractError, match=r"items\.parquet: table 'items' has no column 'price' \(double"):
        validate(source, tmp_path / "out")


def test_wrong_type_is_refused(tmp_path: Path) -> None:
    items = make_tables()[0]["items"]
    place = items.schema.get_field_index("price")
    source = damaged_snapshot(
        tmp_path / "source", {"items": items.set_column(place, "price", items["price"].cast(pa.string()))}
    )
    with pytest.raises(ContractError, match=r"column 'price': type string, the contract says double"):
        validate(source, tmp_path / "out")


def test_sampled_pictures_are_said_to_be_a_sample(tiny_snapshot: Path, tmp_path: Path) -> None:
    report = validate(tiny_snapshot, tmp_path / "out", ValidationConfig(image_sample=0.25))
    assert report.counts["pictures_decoded"] == 38
    assert any("38 of 152 pictures were decoded" in warning for warning in report.warnings)


def test_rows_that_slip_past_the_quarantine_fail_the_proof(
    dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inspection, "set_bad_rows_aside", lambda self: None)
    with pytest.raises(ContractError, match=r"what is left does not meet the contract: .*rule facts: .* violations"):
        validate(dirty, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
