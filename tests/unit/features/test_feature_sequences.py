"""The SQL of the sequences, without Feast."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_event_log import BEGIN, MICROSECOND, USER_IDS, expected, random_log, write_log

from onevision.features import repository
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


def sources(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def test_ten_nights_give_the_bytes_of_one_computation_though_events_come_late(tmp_path):
    """Three events in ten come a night late or three nights late."""
    rng = np.random.default_rng(5)
    rows = random_log(5)
    delivered = [r["ts"] + timedelta(days=int(rng.choice([0, 1, 3], p=[0.7, 0.2, 0.1]))) for r in rows]
    earlier = None
    for night in range(1, 11):
        known = [r for r, at in zip(rows, delivered, strict=True) if at < BEGIN + timedelta(days=night)]
        snapshot, _ = write_log(tmp_path / str(night), known, [])
        whole, by_day = tmp_path / str(night) / "whole", tmp_path / str(night) / "by_day"
        for folder, before in ((whole, None), (by_day, earlier)):
            repository.write_repository(folder, CONFIG)
            write_sources(snapshot, folder, CONFIG, before)
        assert sources(by_day) == sources(whole)
        earlier = by_day
    assert len(known) == len(rows)


def test_only_days_that_changed_are_computed(tmp_path):
    """Rows of the days before come from the earlier folder: a mark left there is still in the result."""
    rows = [event(f"e{day}", BEGIN + timedelta(days=day), "click", f"i{day}") for day in range(4)]
    snapshot, _ = write_log(tmp_path, rows[:3], [])
    earlier = tmp_path / "earlier"
    repository.write_repository(earlier, CONFIG)
    write_sources(snapshot, earlier, CONFIG)
    path = source_file(earlier, "recent_clicked")
    table = pq.read_table(path)
    marked = pa.array([["marked"]] * 3, table.schema.field("recent_clicked").type)
    pq.write_table(table.set_column(table.column_names.index("recent_clicked"), "recent_clicked", marked), path)
    snapshot, _ = write_log(tmp_path / "later", rows, [])
    for config, expected_lists in (
        (CONFIG, [["marked"], ["marked"], ["marked"], ["i3", "i2", "i1", "i0"]]),
        (CONFIG.model_copy(update={"recent_length": 2}), [["i0"], ["i1", "i0"], ["i2", "i1"], ["i3", "i2"]]),
    ):
        folder = tmp_path / str(config.recent_length)
        repository.write_repository(folder, config)
        write_sources(snapshot, folder, config, earlier)
        assert pq.read_table(source_file(folder, "recent_clicked"))["recent_clicked"].to_pylist() == expected_lists


def test_the_docs_name_every_view_with_its_life():
    text = (Path(__file__).parents[3] / "docs" / "features.md").read_text()
    for sequence in SEQUENCES:
        assert f"| `{sequence.name}` | {sequence.life(FeaturesConfig()).days} days |" in text
    assert f"`{SERVICE}`" in text
