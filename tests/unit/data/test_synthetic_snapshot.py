"""The synthetic shop keeps the contract and its own promises about time, views and clicks."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from onevision.data.config import SnapshotConfig
from onevision.data.contract import TABLES
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.data.synthetic import write_synthetic_snapshot

CONFIG = SnapshotConfig(items=360, users=60, days=24, queries=700, image_size=32)
TINY = SnapshotConfig(items=72, users=10, days=12, queries=50, image_size=32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    out = tmp_path_factory.mktemp("shop") / "snapshot"
    write_synthetic_snapshot(out, CONFIG, seed=3)
    return Snapshot.open(out)


@pytest.fixture(scope="module")
def tables(shop: Snapshot) -> dict[str, pd.DataFrame]:
    return {name: shop.table(name).to_pandas() for name in TABLES}


@pytest.fixture(scope="module")
def train_end(shop: Snapshot) -> pd.Timestamp:
    return pd.Timestamp(shop.as_of) - pd.Timedelta(days=SnapshotConfig().cold_days)


def searches(events: pd.DataFrame) -> pd.DataFrame:
    return events[events["query_id"].notna()]


def identity(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["identity"]


def test_same_seed_gives_the_same_bytes_and_another_seed_another_shop(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic_snapshot(tmp_path / name, TINY, seed=seed)
    assert identity(tmp_path / "a") == identity(tmp_path / "b") != identity(tmp_path / "c")
    assert Snapshot.open(tmp_path / "a").images.ids == Snapshot.open(tmp_path / "b").images.ids


def test_every_table_has_the_contracts_schema_and_keys_are_unique_and_known(
    shop: Snapshot, tables: dict[str, pd.DataFrame]
) -> None:
    for name, table in TABLES.items():
        assert shop.table(name).schema.equals(table.schema)
        for column in table.columns:
            values = tables[name][column.name].dropna()
            if column.unique:
                assert values.is_unique
            if column.allowed:
                assert set(values) <= set(column.allowed)
            if column.minimum is not None:
                assert values.min() >= column.minimum
            if column.references:
                other, key = column.references.split(".")
                assert set(values) <= set(tables[other][key])


def test_each_item_has_one_main_and_two_sku_pictures_and_each_query_one_photo(tables: dict[str, pd.DataFrame]) -> None:
    images, queries = tables["images"], searches(tables["events"])
    views = images["view"].value_counts()
    assert views["main"] == CONFIG.items
    assert views["sku"] == 2 * CONFIG.items
    assert (images[images["view"] == "main"]["item_id"].value_counts() == 1).all()
    photos = images[images["image_id"].isin(queries["query_image_id"])]
    assert len(photos) == queries["query_id"].nunique() == CONFIG.queries
    assert set(photos["view"]) == {"user_photo", "video_frame"}
    assert 0.04 < (photos["view"] == "video_frame").mean() < 0.18
    asked = queries.groupby("query_image_id")["ts"].min()
    taken = photos.set_index("image_id")["created_at"]
    assert (asked == taken.reindex(asked.index)).all()


def test_pictures_decode_at_the_configured_size_and_look_different_from_each_other(shop: Snapshot) -> None:
    ids = shop.images.ids
    assert ids == shop.table("images")["image_id"].to_pylist()
    pixels = np.stack([decode_image(shop.images.read(i), CONFIG.image_size) for i in ids[:: len(ids) // 40]])
    assert pixels.shape[1:] == (32, 32, 3)
    flat = pixels.reshape(len(pixels), -1).astype(float)
    distance = np.abs(flat[:, None] - flat[None]).mean(axis=2) + 255 * np.eye(len(flat))
    assert distance.min() > 1.0
    assert (flat.std(axis=1) > 5).all()


def test_there_are_four_departments_and_every_item_hangs_on_a_leaf_below_one(tables: dict[str, pd.DataFrame]) -> None:
    parent = tables["categories"].set_index("category_id")["parent_id"]
    departments = set(parent[parent.isna()].index)
    leaves = set(tables["items"]["category_id"])
    assert len(departments) == 4
    assert len(leaves) >= 12
    assert all(parent[leaf] in departments for leaf in leaves)
    assert leaves.isdisjoint(parent.dropna())


def test_nothing_happens_to_an_item_or_user_before_they_exist_or_after_the_snapshot(
    shop: Snapshot, tables: dict[str, pd.DataFrame]
) -> None:
    events = tables["events"]
    item_born = events["item_id"].map(tables["items"].set_index("item_id")["created_at"])
    user_born = events["user_id"].map(tables["users"].set_index("user_id")["created_at"])
    assert (events["ts"] > item_born).all()
    assert (events["ts"] > user_born).all()
    assert events["ts"].max() < pd.Timestamp(shop.as_of)
    assert events["ts"].min() >= pd.Timestamp(shop.as_of) - pd.Timedelta(days=CONFIG.days)
    images = tables["images"]
    born = images["item_id"].map(tables["items"].set_index("item_id")["created_at"])
    assert (images["created_at"] >= born).all()


def test_events_are_sorted_with_unique_ids_in_order(tables: dict[str, pd.DataFrame]) -> None:
    events = tables["events"]
    assert events["ts"].is_monotonic_increasing
    assert events["event_id"].is_monotonic_increasing
    assert events["event_id"].is_unique


def test_clicks_carts_and_orders_of_a_search_are_of_items_it_showed_at_that_position(
    tables: dict[str, pd.DataFrame],
) -> None:
    queries = searches(tables["events"])
    shown = queries[queries["event_type"] == "impression"].set_index(["query_id", "item_id"])["position"]
    acted = queries[queries["event_type"] != "impression"].set_index(["query_id", "item_id"])["position"]
    assert shown.index.is_unique
    assert (shown.reindex(acted.index) == acted).all()
    sizes = shown.groupby("query_id").agg(["size", "min", "max"])
    assert sizes["size"].between(10, 12).all()
    assert (sizes["min"] == 1).all()
    assert (sizes["max"] == sizes["size"]).all()


def test_orders_follow_carts_and_carts_follow_clicks_at_shop_like_rates(tables: dict[str, pd.DataFrame]) -> None:
    events = tables["events"].copy()
    events["query_id"] = events["query_id"].fillna("browse")
    at = {
        kind: events[events["event_type"] == kind].groupby(["user_id", "query_id", "item_id"])["ts"].min()
        for kind in ("click", "cart", "order")
    }
    for later, earlier in (("cart", "click"), ("order", "cart")):
        assert (at[later] > at[earlier].reindex(at[later].index)).all()
    counts = events["event_type"].value_counts()
    assert 0.12 < counts["order"] / counts["click"] < 0.32
    assert counts["order"] < counts["cart"] < counts["click"]
    assert (events[events["query_id"] == "browse"]["event_type"] == "click").sum() > 0.3 * CONFIG.queries


def test_cold_items_and_users_have_no_past_before_the_training_days_end(
    tables: dict[str, pd.DataFrame], train_end: pd.Timestamp
) -> None:
    for name, key, share in (("items", "item_id", 0.15), ("users", "user_id", 0.1)):
        born = tables[name].set_index(key)["created_at"]
        cold = set(born[born >= train_end].index)
        assert len(cold) == round(share * len(born))
        early = tables["events"][tables["events"]["ts"] < train_end]
        assert cold.isdisjoint(early[key])
    images = tables["images"]
    past = images[images["created_at"] < train_end]
    assert set(past["item_id"]).isdisjoint(set(tables["items"][tables["items"]["created_at"] >= train_end]["item_id"]))


def test_a_quarter_of_the_last_days_searches_photograph_cold_items(
    tables: dict[str, pd.DataFrame], shop: Snapshot, train_end: pd.Timestamp
) -> None:
    images = tables["images"].set_index("image_id")
    photos = images.loc[searches(tables["events"])["query_image_id"].unique()]
    born = photos["item_id"].map(tables["items"].set_index("item_id")["created_at"])
    last_days = photos["created_at"] >= pd.Timestamp(shop.as_of) - pd.Timedelta(days=4)
    assert 0.15 < (born >= train_end)[last_days].mean() < 0.42


def test_reviews_are_of_warm_items_and_uploaded_before_the_last_third_of_the_log(
    tables: dict[str, pd.DataFrame], shop: Snapshot
) -> None:
    images = tables["images"]
    reviews = images[images["image_id"].str.contains("-review-")]
    assert set(reviews["view"]) == {"user_photo"}
    assert (reviews["item_id"].value_counts() == 2).all()
    assert 0.3 * CONFIG.items < reviews["item_id"].nunique() < 0.6 * CONFIG.items
    assert reviews["created_at"].max() <= pd.Timestamp(shop.as_of) - pd.Timedelta(days=CONFIG.days / 3)


def test_oracle_files_name_every_item_and_query_and_rank_only_items_of_that_time(
    shop: Snapshot, tables: dict[str, pd.DataFrame]
) -> None:
    items = pd.read_parquet(shop.artifact.file("oracle_items.parquet"))
    assert list(items["item_id"]) == list(tables["items"]["item_id"])
    queries = pd.read_parquet(shop.artifact.file("oracle_queries.parquet"))
    assert set(queries["query_id"]) == set(searches(tables["events"])["query_id"])
    asked = searches(tables["events"]).groupby("query_id")["ts"].min()
    born = tables["items"].set_index("item_id")["created_at"]
    for row in queries.iloc[:: len(queries) // 30].itertuples():
        assert row.visual_only[0] == row.item_id
        for ranking in (row.with_taste, row.visual_only):
            assert len(ranking) == len(set(ranking)) == 50
            assert (born.loc[list(ranking)] < asked[row.query_id]).all()


def test_the_smallest_shop_and_one_without_cold_items_are_whole(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"cold_item_share": 0.0, "cold_user_share": 0.0})
    report = write_synthetic_snapshot(tmp_path / "warm", config, seed=5)
    assert report.counts["items"] == 72
    assert report.counts["images"] == report.counts["pictures"]


@pytest.mark.parametrize("wrong", [{"items": 71}, {"days": 11}, {"image_size": 16}, {"cold_item_share": 0.6}])
def test_config_refuses_values_that_make_no_shop(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SnapshotConfig(**wrong)
