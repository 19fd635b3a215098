"""Promises of the `pair` stage, on the tiny shop and on versions of it that a test has spoilt."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pairing import (
    DAY,
    TRAIN_END,
    Pairs,
    Runner,
    event,
    photos,
    replace_picture,
    with_rows,
)
from support.snapshots import AS_OF, make_tables

from onevision.artifacts import open_artifact, read_json
from onevision.errors import ContractError, OneVisionError
from onevision.pairing.config import PairingConfig
from onevision.pairing.stage import run


def test_queries_are_split_by_time_and_hold_what_came_of_them(plain: Pairs) -> None:
    tables, _ = make_tables()
    result = plain
    borders = read_json(result.out / "splits.json")
    assert borders["train_end"] == TRAIN_END.isoformat()
    assert borders["validation_end"] == (AS_OF - 4 * DAY).isoformat()
    for split, start, end in (
        ("train", AS_OF - 12 * DAY, TRAIN_END),
        ("validation", TRAIN_END, AS_OF - 4 * DAY),
        ("test", AS_OF - 4 * DAY, AS_OF),
    ):
        times = result.queries[result.queries["split"] == split]["ts"]
        assert len(times) > 0
        assert times.between(start, end, inclusive="left").all()
    events = tables["events"].to_pandas()
    assert set(result.queries["query_id"]) == set(events["query_id"])
    photo_of = dict(zip(*(tables["images"][c].to_pylist() for c in ("image_id", "item_id")), strict=True))
    for query in result.queries.to_dict("records"):
        of_query = events.query("query_id == @query['query_id']")
        shown = of_query.query("event_type == 'impression'").sort_values("position")
        clicked = of_query.query("event_type == 'click'").sort_values(["ts", "event_id"])
        assert list(query["shown"]) == list(shown["item_id"])
        assert list(query["clicked"]) == list(clicked["item_id"])
        assert query["photographed_item"] == photo_of[query["image_id"]]
        assert query["personal"] == (query["clicked"][0] != query["photographed_item"])


def test_cold_items_and_users_are_those_that_training_has_not_seen(plain: Pairs) -> None:
    tables, _ = make_tables()
    queries = plain.queries
    created = tables["items"].to_pandas().set_index("item_id")["created_at"]
    assert (queries["cold_item"] == (queries["photographed_item"].map(created) >= TRAIN_END)).all()
    events = tables["events"].to_pandas()
    seen = set(events[events["ts"] < TRAIN_END]["user_id"])
    assert (queries["cold_user"] == ~queries["user_id"].isin(seen)).all()
    assert queries["cold_item"].any()
    assert queries["cold_user"].any()


def test_photo_is_paired_with_each_catalogue_view_once_under_the_strongest_act(plain: Pairs) -> None:
    query = next(q for q in plain.queries.query("split == 'train'").to_dict("records") if len(q["ordered"]))
    item = query["ordered"][0]
    mine = plain.pairs[(plain.pairs["image_a"] == query["image_id"]) & (plain.pairs["item_b"] == item)]
    mine = mine[mine["kind"] != "same_item"]
    assert sorted(zip(mine["kind"], mine["view_b"], mine["weight"], strict=True)) == [
        ("query_order", "main", 2.0),
        ("query_order", "sku", 1.0),
    ]


@pytest.mark.parametrize(
    ("acts", "kind", "weight"),
    [
        (["click"], "query_click", 1.0),
        (["click", "cart"], "query_cart", 1.5),
        (["cart", "click"], "query_cart", 1.5),
        (["click", "cart", "order"], "query_order", 2.0),
    ],
)
def test_the_strongest_act_gives_the_kind_and_its_weight(
    pair: Runner, acts: list[str], kind: str, weight: float
) -> None:
    tables, images = make_tables()
    query = tables["events"].to_pandas().query("event_type == 'click' and item_id == 'i000'").iloc[0]
    searches = tables["events"].filter(pa.compute.field("event_type") == "impression")
    rows = [
        event(f"z{n}", query["ts"] + n * timedelta(seconds=1), act, "i000", user_id=query["user_id"])
        | {"query_id": query["query_id"], "query_image_id": query["query_image_id"], "position": 1}
        for n, act in enumerate(acts)
    ]
    pairs = pair(with_rows(tables | {"events": searches}, "events", rows), images).pairs
    mine = pairs.query("kind != 'same_item'")
    assert sorted(zip(mine["kind"], mine["view_b"], mine["weight"], strict=True)) == [
        (kind, "main", weight),
        (kind, "sku", weight / 2),
    ]


def test_co_click_weight_is_the_cosine_of_visits(pair: Runner) -> None:
    tables, images = make_tables(queries=60)
    searches = tables["events"].filter(pa.compute.field("event_type") == "impression")
    day = AS_OF - 11 * DAY + timedelta(hours=1)
    # i000 is clicked in three visits, i004 in two of them, and one of these visits has a third item, i008
    clicks = [("u01", "i000"), ("u01", "i004"), ("u02", "i000"), ("u02", "i004"), ("u02", "i008"), ("u03", "i000")]
    rows = [event(f"z{n}", day, "click", item, user_id=user) for n, (user, item) in enumerate(clicks)]
    pairs = pair(with_rows(tables | {"events": searches}, "events", rows), images).pairs
    weights = {(p.item_a, p.item_b): p.weight for p in pairs.query("kind == 'co_click'").itertuples()}
    assert weights == pytest.approx(
        {
            ("i000", "i004"): 0.5 * 1.5 / np.sqrt(3 * 2),
            ("i000", "i008"): 0.5 * 0.5 / np.sqrt(3 * 1),
            ("i004", "i008"): 0.5 * 0.5 / np.sqrt(2 * 1),
        }
    )


def test_click_across_departments_makes_no_pair(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    query = plain.queries.query("split == 'train' and photographed_item == 'i000'").iloc[0]
    acts = [("near", "i005"), ("far", "i002")]  # c0 and c1 share d0; c2 is in d1
    rows = [
        event(name, query["ts"] + DAY / 1440, "click", item, user_id=query["user_id"])
        | {"query_id": query["query_id"], "query_image_id": query["image_id"], "position": 1}
        for name, item in acts
    ]
    result = pair(with_rows(tables, "events", rows), images)
    clicked = result.pairs.query("kind == 'query_click' and image_a == @query['image_id']")
    assert "i005" in set(clicked["item_b"])
    assert "i002" not in set(clicked["item_b"])
    assert result.report.counts["pairs_dropped_category"] >= 2


def test_near_copies_of_a_photo_count_as_one(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    item = next(i for i in tables["items"]["item_id"].to_pylist() if len(photos(tables, i, before=TRAIN_END)) > 1)
    first, second = photos(tables, item, before=TRAIN_END)[:2]
    assert {first, second} <= plain.pictures
    result = pair(tables, replace_picture(images, second, dict(images)[first]))
    assert first in result.pictures
    assert second not in result.pictures
    assert second in set(result.queries["image_id"]), "the search itself stays"
    assert result.report.counts["pairs_dropped_near_duplicate"] > 0


def test_bots_and_users_older_than_their_account_leave_queries_and_pairs(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    start = AS_OF - 11 * DAY
    rush = [event(f"bot{n:02d}", start + n * timedelta(seconds=1), "click", "i000", user_id="u03") for n in range(31)]
    early = event("early", AS_OF - 11 * DAY, "click", "i000", user_id="u10")
    for rows, user in ((rush, "u03"), ([early], "u10")):
        result = pair(with_rows(tables, "events", rows), images)
        assert user in set(plain.queries["user_id"])
        assert user not in set(result.queries["user_id"])
        assert result.report.counts["events_of_bots_or_impossible_users"] >= len(rows)
    assert plain.report.counts["events_of_bots_or_impossible_users"] == 0
    result = pair(with_rows(tables, "events", rush), images)
    assert result.report.counts["pairs_dropped_bot"] > 0


def test_user_who_turns_bot_in_the_test_days_was_a_shopper_in_training(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    start = AS_OF - DAY
    rush = [event(f"bot{n:02d}", start + n * timedelta(seconds=1), "click", "i000", user_id="u03") for n in range(31)]
    after = pair(with_rows(tables, "events", rush), images)
    pd.testing.assert_frame_equal(plain.pairs, after.pairs)
    assert "test" not in set(after.queries.query("user_id == 'u03'")["split"])


def test_pairs_an_item_are_limited(pair: Runner) -> None:
    tables, images = make_tables(queries=300, days=10)
    config = PairingConfig(duplicate_hash_bits=0, max_pairs_per_item=5, max_co_click_pairs_per_item=2)
    result = pair(tables, images, config)
    assert result.pairs.query("kind == 'same_item'").groupby("item_a").size().max() == 5
    co_click = result.pairs.query("kind == 'co_click'")
    assert pd.concat([co_click["item_a"], co_click["item_b"]]).value_counts().max() == 2
    assert result.report.counts["pairs_dropped_limit"] > 0


def test_every_pair_mined_is_kept_or_counted_under_a_rule(pair: Runner) -> None:
    tables, images = make_tables(queries=150)
    result = pair(tables, images, PairingConfig(max_pairs_per_item=4))
    counts = result.report.counts
    dropped = sum(n for name, n in counts.items() if name.startswith("pairs_dropped_"))
    assert counts["pairs_mined"] == counts["pairs_out"] + dropped
    assert counts["pairs_out"] == len(result.pairs)
    for row in result.report.tables[0].rows:
        assert row[1] == sum(row[2:])
    assert sum(row[-1] for row in result.report.tables[0].rows) == len(result.pairs)


def test_order_of_rows_and_ties_in_time_change_nothing(pair: Runner) -> None:
    tables, images = make_tables()
    events = tables["events"].to_pandas()
    events["ts"] = events["ts"].dt.floor("12h")
    tables = tables | {"events": pa.Table.from_pandas(events, tables["events"].schema, preserve_index=False)}
    rng = np.random.default_rng(1)
    shuffled = {name: table.take(rng.permutation(table.num_rows)) for name, table in tables.items()}
    one, other = pair(tables, images), pair(shuffled, images)
    pd.testing.assert_frame_equal(one.pairs, other.pairs)
    pd.testing.assert_frame_equal(one.queries, other.queries)
    assert one.split == other.split
    assert pq.read_table(other.out / "image_splits.parquet")["image_id"] == shuffled["images"]["image_id"]


def test_same_seed_gives_the_same_bytes(tiny_snapshot: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        run(snapshot=tiny_snapshot, out=tmp_path / name, config=PairingConfig(), seed=3)
    assert open_artifact(tmp_path / "one").identity == open_artifact(tmp_path / "other").identity


def test_report_says_that_the_similarity_window_was_not_applied(tiny_snapshot: Path, tmp_path: Path) -> None:
    report = run(snapshot=tiny_snapshot, out=tmp_path / "pairs", config=PairingConfig(), seed=3)
    assert any("similarity window" in warning and "not applied" in warning for warning in report.warnings)
    assert report.figures[0].kind == "png"
    assert open_artifact(tmp_path / "pairs", "pairs").parents == {"snapshot": open_artifact(tiny_snapshot).identity}


def test_snapshot_of_unknown_photos_pairs_photo_and_clicked_item(pair: Runner) -> None:
    tables, images = make_tables()
    frame = tables["images"].to_pandas()
    frame.loc[frame["view"] == "user_photo", "item_id"] = None
    unknown = tables | {"images": pa.Table.from_pandas(frame, tables["images"].schema, preserve_index=False)}
    result = pair(unknown, images)
    assert result.queries["photographed_item"].isna().all()
    assert not result.queries["personal"].any()
    assert result.queries["cold_item"].any()
    assert len(result.pairs.query("kind == 'query_click' and item_a.isna()")) > 0


def test_no_events_in_the_training_days_is_said(tiny_snapshot: Path, tmp_path: Path) -> None:
    config = PairingConfig(validation_days=6, test_days=6)
    with pytest.raises(OneVisionError, match=r"no events in the training days.*pairing\.validation_days"):
        run(snapshot=tiny_snapshot, out=tmp_path / "pairs", config=config, seed=7)
    assert not (tmp_path / "pairs").exists()


def test_no_search_by_photo_is_said(pair: Runner) -> None:
    tables, images = make_tables()
    events = tables["events"].to_pandas().assign(query_id=None, query_image_id=None)
    blind = tables | {"events": pa.Table.from_pandas(events, tables["events"].schema, preserve_index=False)}
    with pytest.raises(OneVisionError, match=r"no searches by photo.*query_image_id"):
        pair(blind, images)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"ts": AS_OF + DAY}, "later than the snapshot's date"),
        ({"item_id": "nothing"}, "are of an item that table 'items' does not hold"),
        ({"query_image_id": "nothing"}, "a picture that table 'images' does not hold"),
    ],
)
def test_snapshot_that_was_not_validated_is_refused(pair: Runner, columns: dict, reason: str) -> None:
    tables, images = make_tables()
    bad = event("bad", AS_OF - DAY, "click", "i000") | columns
    with pytest.raises(ContractError, match=rf"1 events \(such as 'bad'\).*{reason}.*validate"):
        pair(with_rows(tables, "events", [bad]), images)
