"""Nothing of the held-out days is trained on, however it comes back."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from support.pairing import (
    DAY,
    TRAIN_END,
    Pairs,
    Runner,
    event,
    item_photographed_on_both_sides,
    photos,
    recompress,
    replace_picture,
    with_rows,
)
from support.snapshots import AS_OF, make_tables

from onevision.pairing.config import PairingConfig


def test_training_pairs_hold_nothing_of_the_held_out_days(pair: Runner) -> None:
    tables, images = make_tables()
    result = pair(tables, images, PairingConfig())
    held_out = set(result.queries.query("split != 'train'")["image_id"])
    assert {result.split[image] for image in result.pictures} == {"train"}
    assert not held_out & result.pictures
    created = tables["items"].to_pandas().set_index("item_id")["created_at"]
    assert (pd.concat([result.pairs["item_a"], result.pairs["item_b"]]).map(created) < TRAIN_END).all()
    assert {result.split[image] for image in held_out} == {"validation", "test"}
    assert "catalogue_cold" in result.split.values()


def test_held_out_days_cannot_change_training_pairs(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    past_events = tables["events"].filter(pa.compute.less(tables["events"]["ts"], pa.scalar(TRAIN_END)))
    past = tables | {"events": past_events}
    pd.testing.assert_frame_equal(plain.pairs, pair(past, images).pairs)


def test_near_copy_of_a_test_photo_is_in_no_training_pair_and_no_training_query(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    item = item_photographed_on_both_sides(tables)
    old, new = photos(tables, item, before=TRAIN_END)[0], photos(tables, item, after=AS_OF - 4 * DAY)[0]
    assert old in plain.pictures
    copied = replace_picture(images, old, recompress(dict(images)[new]))
    result = pair(tables, copied, PairingConfig(duplicate_hash_bits=2))
    assert old not in result.pictures
    assert result.split[old] == "test"
    assert old not in set(result.queries["image_id"])
    assert result.report.counts["queries_with_a_later_picture"] == 1
    assert result.report.counts["pairs_dropped_held_out_picture"] > 0


def test_catalogue_view_that_a_test_photo_copies_is_not_trained_on_but_keeps_its_place(pair: Runner) -> None:
    tables, images = make_tables()
    item = item_photographed_on_both_sides(tables)
    new = photos(tables, item, after=AS_OF - 4 * DAY)[0]
    main = tables["images"].to_pandas().query("item_id == @item and view == 'main'")["image_id"].item()
    result = pair(tables, replace_picture(images, new, dict(images)[main]), PairingConfig(duplicate_hash_bits=0))
    assert main not in result.pictures
    assert result.split[main] == "catalogue_cold"
    assert result.split[new] == "test"


def test_photo_sent_again_in_the_test_days_leaves_training(pair: Runner) -> None:
    tables, images = make_tables()
    item = item_photographed_on_both_sides(tables)
    old = photos(tables, item, before=TRAIN_END)[0]
    again = event("zz", AS_OF - DAY, "click", item, query_id="zz", query_image_id=old, position=1)
    result = pair(with_rows(tables, "events", [again]), images)
    assert result.split[old] == "test"
    assert old not in result.pictures
    assert set(result.queries[result.queries["image_id"] == old]["split"]) == {"test"}


def test_act_after_the_end_of_training_is_no_label_of_a_training_query(pair: Runner, plain: Pairs) -> None:
    tables, images = make_tables()
    query = plain.queries.query("split == 'train'").iloc[-1]
    late = event("zz", TRAIN_END + DAY, "order", query["photographed_item"], user_id=query["user_id"])
    late |= {"query_id": query["query_id"], "query_image_id": query["image_id"], "position": 1}
    after = pair(with_rows(tables, "events", [late]), images)
    kept = after.queries.set_index("query_id").loc[query["query_id"]]
    assert list(kept["ordered"]) == list(query["ordered"])
    pd.testing.assert_frame_equal(plain.pairs, after.pairs)


@pytest.mark.parametrize("label", [None, "i001"])
def test_a_test_photo_under_another_name_is_not_trained_on(pair: Runner, plain: Pairs, label: str | None) -> None:
    tables, images = make_tables()
    held_out = plain.queries[plain.queries["split"] == "test"].iloc[0]
    assert held_out["photographed_item"] != "i001"
    row = next(row for row in tables["images"].to_pylist() if row["image_id"] == held_out["image_id"])
    copy = row | {"image_id": "copy", "item_id": label, "created_at": TRAIN_END - 2 * DAY}
    images.append(("copy", dict(images)[held_out["image_id"]]))
    early = event("early", TRAIN_END - DAY, "click", "i002", query_id="early", query_image_id="copy")
    found = pair(with_rows(with_rows(tables, "images", [copy]), "events", [early]), images)
    assert found.split["copy"] == "test"
    assert "copy" not in found.pictures
    assert "early" not in set(found.queries["query_id"])
