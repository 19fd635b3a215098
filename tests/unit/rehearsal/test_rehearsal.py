"""A rehearsal: which fault when, what a fault does, how an attempt's end is read. (Whole nights: test_nightly.py.)"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from support.generators import make_catalogue, make_generator, make_queries, thumbnails
from support.snapshots import AS_OF

from onevision.artifacts import finish_artifact, open_artifact
from onevision.data.config import SnapshotConfig
from onevision.data.contract import TABLES
from onevision.data.days import cut_snapshot
from onevision.data.snapshot import Snapshot, write_snapshot
from onevision.errors import ArtifactError
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.generator.modelling import Generator
from onevision.pairing.config import PairingConfig
from onevision.pairing.stage import run as pair
from onevision.recipe import load_recipe
from onevision.rehearsal import faults
from onevision.rehearsal.attempts import attempt, read_attempt, some_time_after
from onevision.rehearsal.nights import plan
from onevision.rehearsal.shop import RehearsedShop, longer_shop
from onevision.stages import STAGES

DAY = AS_OF - timedelta(days=1)


def test_every_fault_comes_once_before_any_comes_again() -> None:
    assert plan(3, False) == ["", "", ""]
    assert plan(8, True) == [*faults.FAULTS, faults.FAULTS[0]]
    assert set(faults.EXPECTED) == {"", *faults.FAULTS}


def test_a_night_that_is_killed_first_may_still_come_to_its_fault() -> None:
    for fault, own in faults.EXPECTED.items():
        wanted = faults.expected(fault, True)
        assert wanted[0] >= {"killed"}
        assert len(wanted) == len(own) + 1
        assert wanted[2:] == own[1:]
    assert faults.expected("", True)[1] == faults.DECIDED | faults.NOTHING  # it may have been decided already
    assert faults.kill_stages("")[-1] == "publish"
    assert "calibrate-pruning" not in faults.kill_stages(faults.SABOTAGED)
    assert "evaluate" not in faults.kill_stages(faults.STORE_FAILS)
    assert {*STAGES, "embed-shard", "merge-embeddings", "open-champion"} - {"align", "train-vrq"} == {
        *faults.STAGES_OF_A_NIGHT
    }


def test_a_longer_shop_has_as_many_searches_and_new_items_a_day() -> None:
    base = load_recipe("smoke").snapshot
    longer = load_recipe("smoke", longer_shop(base, 10)).snapshot
    assert (longer.days, longer.cold_days) == (base.days + 10, base.cold_days + 10)
    assert longer.queries / longer.days == pytest.approx(base.queries / base.days, rel=0.01)
    new, before = (c.items * c.cold_item_share / c.cold_days for c in (longer, base))
    assert new == pytest.approx(before, rel=0.03)
    assert isinstance(longer, SnapshotConfig)


def test_the_days_of_a_snapshot_end_with_it(tiny_snapshot: Path, tmp_path: Path) -> None:
    shop = RehearsedShop(tmp_path, str(tiny_snapshot), 2, "smoke", [])
    dates = [Snapshot.open(shop.day(night)).as_of for night in range(3)]
    assert dates == [AS_OF - timedelta(days=2), DAY, AS_OF]


def test_a_corrupt_day_has_its_length_and_is_noticed(tiny_snapshot: Path, tmp_path: Path) -> None:
    spoilt = faults.corrupt(tiny_snapshot, tmp_path / "spoilt", 1)
    assert (spoilt / "events.parquet").stat().st_size == (tiny_snapshot / "events.parquet").stat().st_size
    with pytest.raises(ArtifactError, match="checksum"):
        Snapshot.open(spoilt)
    Snapshot.open(tiny_snapshot)


def test_an_empty_day_has_the_days_before_and_a_flood_has_its_clicks(tiny_snapshot: Path, tmp_path: Path) -> None:
    whole = Snapshot.open(tiny_snapshot).table("events")
    today = pc.greater(whole["ts"], DAY)
    empty = Snapshot.open(faults.empty(tiny_snapshot, tmp_path / "empty", 1)).table("events")
    assert empty.equals(whole.filter(pc.invert(today)))
    flood = Snapshot.open(faults.flood(tiny_snapshot, tmp_path / "flood", 1)).table("events")
    added = flood.slice(len(whole))
    assert len(added) == faults.BOTS * faults.CLICKS
    assert len(set(added["user_id"].to_pylist())) == faults.BOTS
    assert pc.all(pc.and_(pc.greater(added["ts"], DAY), pc.less_equal(added["ts"], AS_OF))).as_py()


def test_late_events_are_of_the_newest_day_and_the_others_come_in_disorder(tiny_snapshot: Path, tmp_path: Path) -> None:
    whole = Snapshot.open(tiny_snapshot).table("events")
    late = Snapshot.open(faults.late(tiny_snapshot, tmp_path / "late", 1)).table("events")
    missing = whole.filter(pc.invert(pc.is_in(whole["event_id"], late["event_id"].combine_chunks())))
    assert 0 < len(missing) < pc.sum(pc.greater(whole["ts"], DAY)).as_py()
    assert pc.all(pc.greater(missing["ts"], DAY)).as_py()
    assert len(late) + len(missing) == len(whole)
    assert late["ts"].to_pylist() != sorted(late["ts"].to_pylist())


def test_what_came_late_is_in_its_place_the_day_after_whatever_the_order(tiny_snapshot: Path, tmp_path: Path) -> None:
    shop, rng = Snapshot.open(tiny_snapshot), np.random.default_rng(3)
    tables = {name: shop.table(name) for name in TABLES}
    tables["events"] = tables["events"].take(pa.array(rng.permutation(len(tables["events"]))))
    ids = tables["images"]["image_id"].to_pylist()
    pictures = zip(ids, shop.images.read_many(ids), strict=True)
    name = shop.snapshot_id
    write_snapshot(tmp_path / "next", tables, pictures, snapshot_id=name, source="test", as_of=shop.as_of)
    days = {"whole": tiny_snapshot, "late": faults.late(tiny_snapshot, tmp_path / "day", 1), "next": tmp_path / "next"}
    found = {}
    for delivery, day in days.items():
        out = tmp_path / f"pairs-{delivery}"
        pair(snapshot=day, out=out, config=PairingConfig(validation_days=2, test_days=2), seed=1)
        found[delivery] = pq.read_table(out / "queries.parquet").to_pandas().set_index("query_id")
    pd.testing.assert_frame_equal(found["next"], found["whole"])
    assert found["whole"].index.is_unique
    early, late = found["whole"].loc[found["late"].index], found["late"]
    assert (late["split"] == early["split"]).all()  # by its own time, not by that of its delivery
    clicks = [frame["clicked"].map(len).sum() for frame in (late, early)]
    assert clicks[0] < clicks[1]
    for mine, all_of_them in zip(late["clicked"], early["clicked"], strict=True):
        assert set(mine) <= set(all_of_them)


def test_sabotage_changes_the_weights_alone_and_no_other_copy(tmp_path: Path) -> None:
    catalogue, quantizer = make_catalogue()
    make_generator(quantizer).save_pretrained(tmp_path / "generator")
    table = item_table(
        catalogue, make_queries(catalogue), np.zeros(len(catalogue.item_ids), np.int64), thumbnails(catalogue)
    )
    ChoiceModel(table, ["new"], 2, 3).attach(catalogue).save_pretrained(tmp_path / "generator")
    made = finish_artifact(tmp_path / "generator", "generator", generation="test", extra={"kept": True})
    shutil.copytree(made.path, tmp_path / "linked", copy_function=lambda a, b: Path(b).hardlink_to(a))
    faults.sabotage(made.path, 1)
    changed = open_artifact(made.path, "generator")
    assert changed.identity != made.identity
    assert (changed.generation, changed.extra) == (made.generation, made.extra)
    assert open_artifact(tmp_path / "linked").identity == made.identity
    before, after = (Generator.from_pretrained(tmp_path / name).state_dict() for name in ("linked", "generator"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("quantizer")} <= same
    assert len(same) < len(before) / 2
    chosen, disturbed = (ChoiceModel.from_pretrained(tmp_path / name, catalogue) for name in ("linked", "generator"))
    assert not torch.equal(chosen.weights, disturbed.weights)
    assert torch.equal(chosen.item_clicks, disturbed.item_clicks)


def test_a_broken_store_is_mended(tmp_path: Path) -> None:
    (tmp_path / "bundles" / "one").mkdir(parents=True)
    faults.break_store(tmp_path)
    assert not (tmp_path / "bundles").is_dir()
    faults.mend_store(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["bundles", "one"]


def test_an_attempt_is_killed_or_comes_to_its_end(tmp_path: Path) -> None:
    assert attempt(["recipes", "list"], tmp_path / "logs" / "killed.log", lambda _: True).outcome == "killed"
    ended = attempt(["recipes", "list"], tmp_path / "ended.log")
    assert "smoke" in (tmp_path / "ended.log").read_text()
    assert ended.cpu_seconds > 0


def test_a_kill_comes_after_its_stage_has_begun() -> None:
    kill = some_time_after("sft", 0.0)
    assert not kill("pair: started\n")
    assert kill("pair: started\nsft: started\n")
    late = some_time_after("sft", 60.0)
    assert not late("sft: started\n")


def test_the_end_of_an_attempt_is_read_from_what_it_printed() -> None:
    said = """run 20260113-smoke, detail in runs/20260113-smoke/run.log
evaluate: warning: full training advised: icr was 0.900 at the full training and is 0.700
sft: warning: the best check on validation days was parent
night 2026-01-13-abcdef12: kept, serving 0123456789abcdef
HR@10 fell.
next: Nothing tonight.
onevision: more
"""
    found = read_attempt(said, False, 2.0, 1.0)
    assert (found.outcome, found.run, found.why) == ("kept", "20260113-smoke", ["HR@10 fell."])
    assert found.warnings == ["full training advised: icr was 0.900 at the full training and is 0.700"]
    assert read_attempt(said, True, 2.0, 1.0).outcome == "killed"
    assert read_attempt("Traceback", False, 2.0, 1.0).outcome == "failed"
    assert read_attempt("night /shop/day: not begun\nno manifest\nnext: x", False, 1, 1).why == ["no manifest"]


def test_what_bots_did_on_one_day_is_history_on_the_days_after(tiny_snapshot: Path, tmp_path: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    dates = [shop.as_of - timedelta(days=2), shop.as_of]
    events = Snapshot.open(faults.flood(tiny_snapshot, tmp_path / "flood", 1, dates)).table("events")
    added = events.slice(len(shop.table("events"))).to_pylist()
    assert len({event["event_id"] for event in added}) == 2 * faults.BOTS * faults.CLICKS
    assert {(shop.as_of - event["ts"]).days for event in added} == {0, 2}
    cut_snapshot(tiny_snapshot, tmp_path / "day", dates[0])
    before = Snapshot.open(faults.flood(tmp_path / "day", tmp_path / "then", 1)).table("events")
    then = before.slice(len(Snapshot.open(tmp_path / "day").table("events"))).to_pylist()
    assert added[: len(then)] == then  # the same clicks as on the day itself
