"""The newest day beside those before it: a usual one passes, an odd one warns, a wrong one stops the night."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.snapshots import AS_OF, make_tables, save_snapshot

from onevision.artifacts import finish_artifact, start_artifact
from onevision.errors import ContractError
from onevision.report import StageReport
from onevision.validation.config import ValidationConfig
from onevision.validation.history import population_stability
from onevision.validation.stage import run

Tables = dict[str, pa.Table]
DAY = AS_OF - timedelta(days=1)
CONFIG = ValidationConfig(max_quarantine_share=0.5, max_category_shift=1.0)


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    """As much of a bundle as the day is compared with: the catalogue of the tiny shop."""
    items = make_tables()[0]["items"]
    path = start_artifact(tmp_path / "champion")
    (path / "semantic_ids").mkdir()
    sids = pa.array([[n // 12, n % 12] for n in range(len(items))])
    catalogue = items.select(["item_id", "price"]).append_column("sid", sids)
    pq.write_table(catalogue, path / "semantic_ids" / "items.parquet")
    return finish_artifact(path, "bundle").path


@pytest.fixture
def validate(tmp_path: Path, champion: Path) -> Callable[..., StageReport]:
    def check(change: Callable[[Tables], Tables], config: ValidationConfig = CONFIG) -> StageReport:
        tables, images = make_tables()
        save_snapshot(tmp_path / "day", tables | change(tables), images)
        return run(snapshot=tmp_path / "day", out=tmp_path / "clean", config=config, seed=7, champion=champion)

    return check


def today(events: pa.Table) -> pa.ChunkedArray:
    return pc.greater(events["ts"], pa.scalar(DAY, events["ts"].type))


def set_where(table: pa.Table, column: str, where: pa.ChunkedArray, value: object) -> pa.Table:
    field = table.schema.get_field_index(column)
    changed = pc.if_else(where, pa.scalar(value, table.schema.field(column).type), table[column])
    return table.set_column(field, table.schema.field(column), changed)


def nothing(tables: Tables) -> Tables:
    return {}


def empty_day(tables: Tables) -> Tables:
    return {"events": tables["events"].filter(pc.invert(today(tables["events"])))}


def prices_in_cents(tables: Tables) -> Tables:
    items = tables["items"]
    return {"items": items.set_column(4, items.schema.field("price"), pc.multiply(items["price"], 100.0))}


def half_the_catalogue(tables: Tables) -> Tables:
    kept = tables["items"].slice(0, 12)
    ids = kept["item_id"].combine_chunks()
    images = tables["images"]
    images = images.filter(pc.is_in(images["item_id"], ids))
    events = tables["events"]
    events = events.filter(
        pc.and_(pc.is_in(events["item_id"], ids), pc.is_in(events["query_image_id"], images["image_id"]))
    )
    return {"items": kept, "images": images, "events": events}


def unknown_items(tables: Tables) -> Tables:
    return {"events": set_where(tables["events"], "item_id", today(tables["events"]), "i777")}


def no_pictures(tables: Tables) -> Tables:
    return {"events": set_where(tables["events"], "query_image_id", today(tables["events"]), None)}


def bots(clicks: int, days_ago: int = 0) -> Callable[[Tables], Tables]:
    """A user clicks so often on the day, or on one before it."""

    def change(tables: Tables) -> Tables:
        last = tables["events"].slice(len(tables["events"]) - 1).to_pylist()[0]
        flood = [
            last
            | {
                "event_id": f"flood-{days_ago}-{n}",
                "event_type": "click",
                "user_id": "u00",
                "ts": DAY + timedelta(days=-days_ago, minutes=n + 1),
                "query_id": None,
                "query_image_id": None,
                "position": None,
            }
            for n in range(clicks)
        ]
        return {"events": pa.concat_tables([tables["events"], pa.Table.from_pylist(flood, tables["events"].schema)])}

    return change


def test_a_usual_day_passes_and_its_measures_are_shown(validate: Callable[..., StageReport]) -> None:
    report = validate(nothing)
    table = report.tables[-1]
    assert table.title == "The day against its history"
    measured = {row[0]: row[1] for row in table.rows}
    assert measured["items gone"] == 0
    assert measured["price level"] == 1
    assert "against history" in report.figures[0].content


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (empty_day, "events 0 "),
        (prices_in_cents, "price level 100 "),
        (half_the_catalogue, "items gone 0.5 "),
        (unknown_items, "events of unknown items 1 "),
        (no_pictures, "events without query_image_id 1 "),
    ],
)
def test_a_day_that_cannot_be_right_stops_the_night_and_is_named(
    validate: Callable[..., StageReport], change: Callable[[Tables], Tables], named: str
) -> None:
    with pytest.raises(ContractError, match=r"the day 2026-01-12 is not like the days before it: .*" + named):
        validate(change)


def test_clicks_that_all_move_to_one_code_are_odd(validate: Callable[..., StageReport]) -> None:
    def one_item(tables: Tables) -> Tables:
        return {"events": set_where(tables["events"], "item_id", today(tables["events"]), "i000")}

    tight = CONFIG.model_copy(update={"max_code_psi": 0.4})
    usual = {row[0]: row[1] for row in validate(nothing, tight).tables[-1].rows}["code usage (PSI)"]
    assert usual < 0.1
    with pytest.raises(ContractError, match=r"code usage \(PSI\)"):
        validate(one_item, tight)


def test_population_stability_is_that_of_the_formula_and_zero_by_chance() -> None:
    now, before = [900, 100], [500, 500]
    plain = 0.4 * np.log(0.9 / 0.5) - 0.4 * np.log(0.1 / 0.5)
    assert population_stability(now, before) == pytest.approx(plain, rel=0.02)
    rng = np.random.default_rng(3)
    chance = [population_stability(*rng.multinomial(60, np.full(16, 1 / 16), size=2).tolist()) for _ in range(50)]
    assert np.median(chance) < 0.1
    assert population_stability([60, 0], [0, 60]) > 3


def test_an_odd_day_warns_and_goes_on(validate: Callable[..., StageReport]) -> None:
    def dearer(tables: Tables) -> Tables:
        items = tables["items"]
        return {"items": items.set_column(4, items.schema.field("price"), pc.multiply(items["price"], 1.4))}

    warnings = validate(dearer).warnings
    assert [w for w in warnings if w.startswith("odd for this shop: price level 1.4 ")]


def test_a_flood_of_clicks_is_set_aside_and_a_busy_user_is_not(
    validate: Callable[..., StageReport], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"max_null_change": 1.0})  # a browsing user's clicks have no photo
    assert validate(bots(30), config).counts["events_quarantined"] == 0
    report = validate(bots(90), config)
    aside = pq.read_table(tmp_path / "clean" / "quarantine" / "events.parquet")
    reasons = [reason for reason in aside["reason"].to_pylist() if reason.startswith("click flood")]
    assert len(reasons) >= 90
    assert report.counts["events_quarantined"] == len(reasons)
    assert "user_id u00 clicked more than" in reasons[0]
    left = pq.read_table(tmp_path / "clean" / "events.parquet")
    assert not [e for e in left.filter(today(left))["user_id"].to_pylist() if e == "u00"]
    assert "u00" in left["user_id"].to_pylist()  # the days before stay


@pytest.mark.parametrize("both", [False, True])
def test_a_flood_is_set_aside_again_when_it_is_history_and_raises_no_limit(
    validate: Callable[..., StageReport], tmp_path: Path, both: bool
) -> None:
    config = CONFIG.model_copy(update={"max_null_change": 1.0, "max_quarantine_share": 0.9})

    def twice(tables: Tables) -> Tables:
        tables = tables | bots(90, days_ago=1)(tables)
        return bots(90)(tables) if both else {"events": tables["events"]}

    validate(twice, config)
    aside = pq.read_table(tmp_path / "clean" / "quarantine" / "events.parquet")["event_id"].to_pylist()
    assert {f"flood-1-{n}" for n in range(90)} <= set(aside)
    assert ({f"flood-0-{n}" for n in range(90)} <= set(aside)) == both
    left = pq.read_table(tmp_path / "clean" / "events.parquet")["event_id"].to_pylist()
    assert not [event for event in left if event.startswith("flood")]


def test_the_first_days_of_a_log_are_not_judged(validate: Callable[..., StageReport]) -> None:
    config = CONFIG.model_copy(update={"max_null_change": 1.0, "max_quarantine_share": 0.9})
    quarantined = [validate(bots(90, days_ago), config).counts["events_quarantined"] for days_ago in (3, 8)]
    assert quarantined[0] >= 90
    assert quarantined[1] == 0


def test_a_flood_that_is_most_of_the_log_stops_the_night(validate: Callable[..., StageReport]) -> None:
    with pytest.raises(ContractError, match="click flood: user_id u00"):
        validate(bots(90), CONFIG.model_copy(update={"max_quarantine_share": 0.02}))


def test_a_flood_of_an_earlier_day_does_not_stop_the_nights_after_it(
    validate: Callable[..., StageReport], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"max_null_change": 1.0, "max_quarantine_share": 0.02})
    assert validate(bots(90, days_ago=1), config).counts["events_quarantined"] >= 90
    aside = pq.read_table(tmp_path / "clean" / "quarantine" / "events.parquet")["reason"].to_pylist()
    assert aside[0].startswith("click flood of an earlier day: user_id u00 clicked more than")


def test_without_a_champion_no_day_is_compared(tmp_path: Path) -> None:
    tables, images = make_tables()
    save_snapshot(tmp_path / "day", tables | empty_day(tables), images)
    report = run(snapshot=tmp_path / "day", out=tmp_path / "clean", config=CONFIG, seed=7)
    assert len(report.tables) == 2
