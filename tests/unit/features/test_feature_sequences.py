"""The SQL of the sequences, without Feast."""

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from feature_event_log import BEGIN, MICROSECOND, USER_IDS, expected, random_log, write_log

from onevision.features.config import FeaturesConfig
from onevision.features.definitions import EVENT_TIMESTAMP, SEQUENCES, SERVICE, source_file
from onevision.features.sequences import write_sources

CONFIG = FeaturesConfig(recent_length=4, long_length=9)


def written(folder, rows, config=CONFIG):
    snapshot, _ = write_log(folder, rows, [])
    write_sources(snapshot, folder, config)
    return {s.name: pq.read_table(source_file(folder, s.name)).to_pylist() for s in SEQUENCES}


def event(event_id, ts, kind, item, query=None, photo=None):
    row = {"event_id": event_id, "ts": ts, "user_id": "u1", "event_type": kind, "item_id": item}
    return row | {"query_id": query, "query_image_id": photo, "position": 1 if query else None}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_row_is_what_brute_force_says_a_microsecond_after_its_events(tmp_path, seed):
    rows = random_log(seed)
    sources = written(tmp_path, rows)
    for name, source in sources.items():
        assert len(source) > 40
        for row in source:
            assert row[name] == expected(rows, row["user_id"], row[EVENT_TIMESTAMP], CONFIG)[name]


def test_a_user_has_one_row_a_moment_and_a_moment_for_every_change(tmp_path):
    rows = random_log(3)
    for name, source in written(tmp_path, rows).items():
        moments = [(row["user_id"], row[EVENT_TIMESTAMP]) for row in source]
        assert moments == sorted(set(moments))
        for user in USER_IDS[:6]:
            last = [row[name] for row in source if row["user_id"] == user][-1]
            assert last == expected(rows, user, BEGIN + timedelta(days=20), CONFIG)[name]


def test_ties_in_time_are_ordered_by_event_id_whatever_the_order_of_the_file(tmp_path):
    tied = [event(f"e{k}", BEGIN, "click", f"i{k}") for k in (2, 0, 3, 1)]
    first, second = written(tmp_path / "a", tied), written(tmp_path / "b", tied[::-1])
    assert first == second
    assert [row["recent_clicked"] for row in first["recent_clicked"]] == [["i3", "i2", "i1", "i0"]]


def test_a_click_its_cart_and_its_order_are_one_interest_but_every_order_counts(tmp_path):
    at = [BEGIN + timedelta(minutes=k) for k in range(5)]
    rows = [
        event("e0", at[0], "click", "i1", "q1", "photo3"),
        event("e1", at[1], "cart", "i1", "q1", "photo3"),
        event("e2", at[2], "order", "i1", "q1", "photo3"),
        event("e3", at[3], "order", "i1"),
        event("e4", at[4], "order", "i1"),
    ]
    sources = written(tmp_path, rows)
    assert sources["recent_clicked"][-1]["recent_clicked"] == ["i1", "i1", "i1"]
    assert sources["recent_ordered"][-1]["recent_ordered"] == ["i1", "i1", "i1"]
    assert [row[EVENT_TIMESTAMP] for row in sources["recent_clicked"]] == [
        t + MICROSECOND for t in (at[0], at[3], at[4])
    ]


def test_a_search_is_the_item_in_its_photo_or_else_the_first_clicked(tmp_path):
    at = [BEGIN + timedelta(minutes=k) for k in range(6)]
    rows = [
        event("e0", at[0], "impression", "i9", "known", "photo7"),
        event("e1", at[1], "click", "i9", "known", "photo7"),
        event("e2", at[2], "impression", "i8", "unknown", "photo3"),
        event("e3", at[3], "click", "i6", "unknown", "photo3"),
        event("e4", at[4], "click", "i5", "unknown", "photo3"),
        event("e5", at[5], "impression", "i4", "nothing clicked", "photo3"),
    ]
    source = written(tmp_path, rows)["recent_searched"]
    assert [(row[EVENT_TIMESTAMP] - MICROSECOND, row["recent_searched"]) for row in source] == [
        (at[0], ["i7"]),
        (at[3], ["i6", "i7"]),
    ]


def test_the_same_log_gives_the_same_bytes(tmp_path):
    rows = random_log(4)
    for name in ("a", "b"):
        written(tmp_path / name, rows)
    for sequence in SEQUENCES:
        first, second = (source_file(tmp_path / name, sequence.name).read_bytes() for name in ("a", "b"))
        assert first == second


def test_the_docs_name_every_view_with_its_life():
    text = (Path(__file__).parents[3] / "docs" / "features.md").read_text()
    for sequence in SEQUENCES:
        assert f"| `{sequence.name}` | {sequence.life(FeaturesConfig()).days} days |" in text
    assert f"`{SERVICE}`" in text
