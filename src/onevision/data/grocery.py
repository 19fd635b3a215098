"""Real photos and real purchases: the Grocery Store Dataset joined with The Complete Journey.

81 products with a catalogue picture each, shoppers' photos of them, and eleven months of purchases by 2,387 households.
The photos are real and the purchases are real; that a purchase began with a search by one of the photos is ours
(`docs/data.md` says what is measured by it and what is not). Sources and licences: the SOURCE.md files beside the data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from onevision.data.grocery_events import AS_OF, SearchPlan, build_events, plan_daily_searches, plan_searches
from onevision.data.grocery_sources import (
    Photos,
    Purchases,
    read_demographics,
    read_photos,
    read_prices,
    read_purchases,
)
from onevision.data.snapshot import write_snapshot
from onevision.errors import OneVisionError
from onevision.report import ReportTable, StageReport

DATA_VARIABLE = "ONEVISION_DATA"
DEFAULT_DATA = Path("../shared/data")
SNAPSHOT_ID = "grocery-2017-12-01"
_FILES = (
    "grocery_store/iconic.npz",
    "grocery_store/train.npz",
    "grocery_store/val.npz",
    "complete_journey/grocery_events.npz",
    "complete_journey/transactions.parquet",
    "complete_journey/demographics.parquet",
)


def write_grocery_snapshot(out: Path, data_dir: Path | None = None, *, daily: bool = False) -> StageReport:
    """Write the snapshot of 2017-12-01: every photo, every mapped purchase, about 6,700 searches.

    Args:
        daily: 20,000 searches instead, alike on every day, for a log that is cut day by day.
        data_dir: holds `grocery_store/` and `complete_journey/`; by default `$ONEVISION_DATA`, else `../shared/data`.

    Raises:
        OneVisionError: the data are not there.
    """
    started = time.monotonic()
    data = find_data(data_dir)
    shelf, train, val = (read_photos(data / "grocery_store", name) for name in ("iconic", "train", "val"))
    purchases = read_purchases(data / "complete_journey", shelf)
    plan = (plan_daily_searches if daily else plan_searches)(purchases, train, val)
    tables = {
        "categories": _categories(shelf),
        "items": _items(shelf, purchases, read_prices(data / "complete_journey", purchases)),
        "images": _images(shelf, train, val, plan, purchases),
        "users": _users(purchases, plan, read_demographics(data / "complete_journey")),
        "events": build_events(plan, purchases, shelf),
    }
    artifact = write_snapshot(
        out, tables, _pictures(shelf, train, val), snapshot_id=SNAPSHOT_ID, source="grocery", as_of=AS_OF
    )
    return _report(artifact.counts, purchases, plan, time.monotonic() - started)


def find_data(data_dir: Path | None = None) -> Path:
    """The folder of the data; `OneVisionError` says what to set if it, or a file in it, is not there."""
    data = data_dir or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)
    for name in _FILES:
        if not (data / name).is_file():
            raise OneVisionError(
                f"{data / name}: no such file; set {DATA_VARIABLE}, or pass a data folder, that holds grocery_store/ "
                "and complete_journey/"
            )
    return data


def _categories(shelf: Photos) -> pd.DataFrame:
    departments = dict(zip(shelf.department_ids, shelf.departments, strict=True))
    leaves = dict(zip(shelf.category_ids, zip(shelf.coarse_names, shelf.department_ids, strict=True), strict=True))
    rows: list[tuple[str, str, str | None]] = [(slug, name, None) for slug, name in sorted(departments.items())]
    rows += [(slug, name, parent) for slug, (name, parent) in sorted(leaves.items())]
    return pd.DataFrame(rows, columns=["category_id", "name", "parent_id"])


def _items(shelf: Photos, purchases: Purchases, prices: pd.Series) -> pd.DataFrame:
    """One item a class, at the median price paid; a class never bought takes its category's price, else the shop's."""
    items = pd.DataFrame({"item_id": shelf.item_ids, "title": shelf.fine_names, "category_id": shelf.category_ids})
    paid = pd.Series(shelf.fine).map(prices)
    paid = paid.fillna(paid.groupby(items["category_id"]).transform("median")).fillna(paid.median())
    return items.assign(brand=None, price=paid.round(2), in_stock=True, created_at=purchases.first_day)


def _images(shelf: Photos, train: Photos, val: Photos, plan: SearchPlan, purchases: Purchases) -> pd.DataFrame:
    """Catalogue pictures and photos; a photo is dated by its first search, an unused one by the first day."""
    frames = [
        pd.DataFrame({"image_id": photos.image_ids, "item_id": shelf.item_ids[photos.fine], "view": view})
        for photos, view in ((shelf, "main"), (train, "user_photo"), (val, "user_photo"))
    ]
    images = pd.concat(frames, ignore_index=True)
    first = plan.searches.groupby("photo")["ts"].min()
    return images.assign(created_at=images["image_id"].map(first).fillna(purchases.first_day))


def _users(purchases: Purchases, plan: SearchPlan, segments: pd.Series) -> pd.DataFrame:
    """Households and the visitors of searches without a purchase, from the day of their first event."""
    first = pd.concat([purchases.frame[["user_id", "ts"]], plan.searches[["user_id", "ts"]]])
    users = first.groupby("user_id")["ts"].min().dt.floor("D").rename("created_at").reset_index()
    segment = users["user_id"].map(segments)
    return users.assign(segment=segment.astype(object).where(segment.notna(), None))


def _pictures(*sets: Photos) -> Iterator[tuple[str, bytes]]:
    for photos in sets:
        yield from zip(photos.image_ids, photos.bytes(), strict=True)


def _report(counts: dict[str, int], purchases: Purchases, plan: SearchPlan, seconds: float) -> StageReport:
    searches = plan.searches
    rows = []
    for split in ("train", "validation", "test"):
        mine = searches[searches["split"] == split]
        bought = int((mine["purchase"] >= 0).sum())
        rows.append([split, len(mine), bought, len(mine) - bought, mine["photo"].nunique(), mine["fine"].nunique()])
    by_purchase = int((searches["purchase"] >= 0).sum())
    report_counts = {f"{name}_out": count for name, count in counts.items()} | {
        "purchases_in": len(purchases.frame),
        "purchases_in_searches": by_purchase,
        "purchases_outside_search": len(purchases.frame) - by_purchase,
        "purchases_of_a_coarse_class": int(purchases.frame["by_hash"].sum()),
        "searches_without_purchase": len(searches) - by_purchase,
        "photos_unused": plan.unused_photos,
    }
    columns = ["split", "searches", "with a purchase", "by visitors", "photos", "items"]
    caption = (
        "Searches by visitors have a click and no order: they make a photo of a class that no household bought "
        "in the test days measurable."
    )
    table = ReportTable("Searches", columns, rows, caption)
    return StageReport("grocery", report_counts, tables=[table], seconds=seconds)
