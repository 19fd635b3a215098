"""Real photos and purchases: nothing lost, no photo in two splits, every val photo measurable, published bytes kept."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onevision.data import grocery_events
from onevision.data.grocery import find_data, write_grocery_snapshot
from onevision.data.grocery_events import AS_OF, DAILY_SEARCHES, SHOWN, TRAIN_END, VALIDATION_END
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.errors import OneVisionError
from onevision.pairing.config import PairingConfig
from onevision.report import StageReport


@pytest.fixture(scope="module")
def data() -> Path:
    try:
        return find_data()
    except OneVisionError as error:
        pytest.skip(f"the grocery data are not here: {error}")


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, StageReport]:
    out = tmp_path_factory.mktemp("grocery") / "snapshot"
    report = write_grocery_snapshot(out, data)
    return Snapshot.open(out), report


@pytest.fixture(scope="module")
def searches(written: tuple[Snapshot, StageReport]) -> pd.DataFrame:
    """One row a search: its photo, the class in it, and its split by the default recipe's borders."""
    events = written[0].table("events").to_pandas()
    clicks = events[events["event_type"] == "click"]
    split = np.select([clicks["ts"] < TRAIN_END, clicks["ts"] < VALIDATION_END], ["train", "validation"], "test")
    return clicks.assign(split=split)


def test_the_borders_are_those_of_the_default_recipe() -> None:
    pairing = PairingConfig()
    assert (pairing.validation_days, pairing.test_days) == (grocery_events.VALIDATION_DAYS, grocery_events.TEST_DAYS)


def test_missing_data_say_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEVISION_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(OneVisionError, match=r"nowhere/grocery_store/iconic\.npz: no such file; set ONEVISION_DATA"):
        write_grocery_snapshot(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert inspect.signature(write_grocery_snapshot).parameters["data_dir"].default is None


def test_the_same_data_give_the_same_snapshot(
    data: Path, written: tuple[Snapshot, StageReport], tmp_path: Path
) -> None:
    write_grocery_snapshot(tmp_path / "again", data)
    again = Snapshot.open(tmp_path / "again", verify=False)
    assert again.artifact.identity == written[0].artifact.identity


def test_every_picture_keeps_its_published_bytes_and_its_class(
    data: Path, written: tuple[Snapshot, StageReport]
) -> None:
    snapshot = written[0]
    rows = snapshot.table("images").to_pandas()
    for name, count in (("iconic", 81), ("train", 2640), ("val", 296)):
        mine = rows[rows["image_id"].str.startswith(f"{name}/")]
        assert len(mine) == count
        with np.load(data / "grocery_store" / f"{name}.npz") as source:
            offsets, jpeg, paths = source["off"], source["jpeg"], source["path"]
        for row in (0, count // 2, count - 1):
            kept = snapshot.images.read(mine["image_id"].iloc[row])
            assert kept == jpeg[offsets[row] : offsets[row + 1]].tobytes()
            assert decode_image(kept, 32).shape == (32, 32, 3)
            assert str(paths[row]).split("/")[-2].lower() == mine["item_id"].iloc[row]
    assert set(rows.loc[rows["view"] == "main", "item_id"]) == set(snapshot.table("items")["item_id"].to_pylist())


def test_every_purchase_is_an_order_of_its_class(data: Path, written: tuple[Snapshot, StageReport]) -> None:
    snapshot, report = written
    events = snapshot.table("events").to_pandas()
    orders = events[events["event_type"] == "order"]
    with np.load(data / "complete_journey" / "grocery_events.npz") as source:
        fine, coarse, household = source["fine"], source["coarse"], source["household"]
    with np.load(data / "grocery_store" / "iconic.npz") as shelf:
        names = np.array([str(path).split("/")[-2].lower() for path in shelf["path"]])
        categories = shelf["coarse"]
    assert len(orders) == len(fine) == report.counts["purchases_in"]
    assert report.counts["purchases_in_searches"] + report.counts["purchases_outside_search"] == len(fine)
    counted = orders.groupby("item_id").size().reindex(names, fill_value=0).to_numpy()
    assert (counted >= np.bincount(fine[fine >= 0], minlength=81)).all()
    assert (np.bincount(categories, counted, 43) == np.bincount(coarse, minlength=43)).all()
    assert (
        orders.groupby("user_id").size().sort_values() == np.sort(np.bincount(household)[np.unique(household)])
    ).all()


def test_no_photo_serves_in_two_splits(searches: pd.DataFrame) -> None:
    assert searches.groupby("query_image_id")["split"].nunique().max() == 1
    prefix = searches["query_image_id"].str.partition("/")[0]
    assert set(zip(searches["split"], prefix, strict=True)) == {
        ("train", "train"),
        ("validation", "train"),
        ("test", "val"),
    }


def test_every_val_photo_is_searched_with_once_and_its_class_is_clicked(
    written: tuple[Snapshot, StageReport], searches: pd.DataFrame
) -> None:
    classes = written[0].table("images").to_pandas().set_index("image_id")["item_id"]
    assert (classes.loc[searches["query_image_id"]].to_numpy() == searches["item_id"]).all()
    tested = searches.loc[searches["split"] == "test", "query_image_id"]
    assert sorted(tested) == sorted(i for i in classes.index if i.startswith("val/"))
    assert tested.is_unique


def test_the_number_of_searches_is_moderate(searches: pd.DataFrame) -> None:
    assert searches["split"].value_counts().to_dict() == {"train": 6000, "validation": 450, "test": 296}


def test_only_visitors_search_without_buying(written: tuple[Snapshot, StageReport], searches: pd.DataFrame) -> None:
    events = written[0].table("events").to_pandas()
    bought = set(events.loc[events["event_type"] == "order", "query_id"].dropna())
    visitors = searches[~searches["query_id"].isin(bought)]
    assert visitors["user_id"].str.startswith("visitor-").all()
    assert visitors["user_id"].is_unique
    assert (visitors["split"] == "test").all()
    assert len(visitors) == written[1].counts["searches_without_purchase"]
    assert not searches.loc[searches["query_id"].isin(bought), "user_id"].str.startswith("visitor-").any()


def test_a_search_shows_ten_items_with_its_category_first_in_line(written: tuple[Snapshot, StageReport]) -> None:
    snapshot = written[0]
    events = snapshot.table("events").to_pandas()
    category = snapshot.table("items").to_pandas().set_index("item_id")["category_id"]
    sizes = category.value_counts()
    shown = events[events["event_type"] == "impression"]
    clicked = events[events["event_type"] == "click"].set_index("query_id")
    for query_id, rows in list(shown.groupby("query_id"))[::97]:
        wanted = clicked.loc[query_id]
        assert sorted(rows["position"]) == list(range(1, SHOWN + 1))
        assert rows["item_id"].is_unique
        assert rows.set_index("position")["item_id"][wanted["position"]] == wanted["item_id"]
        same = (category.loc[rows["item_id"]] == category[wanted["item_id"]]).sum()
        assert same == min(SHOWN, sizes[category[wanted["item_id"]]])


def test_no_event_is_later_than_the_date_or_earlier_than_its_user_and_photo(
    written: tuple[Snapshot, StageReport],
) -> None:
    snapshot = written[0]
    events = snapshot.table("events").to_pandas()
    assert events["ts"].max() <= AS_OF
    assert events["event_id"].is_unique
    users = snapshot.table("users").to_pandas().set_index("user_id")["created_at"]
    assert (events["ts"].to_numpy() >= users.loc[events["user_id"]].to_numpy()).all()
    searched = events.dropna(subset=["query_image_id"])
    photos = snapshot.table("images").to_pandas().set_index("image_id")["created_at"]
    assert (searched["ts"].to_numpy() >= photos.loc[searched["query_image_id"]].to_numpy()).all()


def test_the_answer_of_a_search_is_not_bought_in_its_own_basket_before(
    written: tuple[Snapshot, StageReport], searches: pd.DataFrame
) -> None:
    events = written[0].table("events").to_pandas()
    orders = events[events["event_type"] == "order"][["user_id", "item_id", "ts"]]
    near = searches.merge(orders, on=["user_id", "item_id"], suffixes=("", "_order"))
    gap = (near["ts"] - near["ts_order"]).dt.total_seconds()
    same_basket = (gap > 0) & (gap < 600)  # a receipt has one time; its purchases are laid out within minutes
    assert same_basket.mean() < 0.001


def test_items_have_prices_and_a_place_in_the_tree(written: tuple[Snapshot, StageReport]) -> None:
    snapshot = written[0]
    items = snapshot.table("items").to_pandas()
    tree = snapshot.table("categories").to_pandas().set_index("category_id")["parent_id"]
    assert (items["price"] > 0).all()
    assert set(tree.loc[items["category_id"]]) == {"fruit", "packages", "vegetables"}
    assert tree[tree.isna()].index.tolist() == ["fruit", "packages", "vegetables"]


def test_a_daily_log_has_the_same_share_of_searches_every_day(data: Path, tmp_path: Path) -> None:
    write_grocery_snapshot(tmp_path / "log", data, daily=True)
    events = Snapshot.open(tmp_path / "log").table("events").to_pandas()
    searches = events[events["event_type"] == "click"]
    assert len(searches) == searches["query_id"].nunique() == DAILY_SEARCHES
    orders = events[events["event_type"] == "order"]
    november = [
        frame[frame["ts"] >= "2017-11-01"].groupby(frame["ts"].dt.floor("D")).size() for frame in (searches, orders)
    ]
    share = november[0] / november[1]
    assert len(share) == 30
    assert share.between(0.06, 0.2).all()
    assert len(orders) == 158_099
