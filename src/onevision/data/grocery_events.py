"""From purchases to searches: which purchase begins with which photo, and the events that tell it.

A photo serves in one split only. The split is by time, so the photo is chosen to fit the day: train photos before the
held-out days, train photos held apart for them in the validation days, val photos in the test days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from onevision.data.grocery_sources import SEED, Photos, Purchases, draw

AS_OF = datetime(2017, 12, 1, tzinfo=UTC)
VALIDATION_DAYS = TEST_DAYS = 4
"""The defaults of the recipe section `pairing`; a recipe that splits elsewhere would mix the photos' splits."""
VALIDATION_END = AS_OF - timedelta(days=TEST_DAYS)
TRAIN_END = VALIDATION_END - timedelta(days=VALIDATION_DAYS)
TRAIN_SEARCHES = 6000
DAILY_SEARCHES = 20_000
"""Of a log that is cut day by day: about sixty a day, every day alike."""
VALIDATION_SEARCHES = 450
HELD_SHARE = 0.1
"""Of each class's train photos, kept for the validation days."""
SHOWN = 10
STEP = pd.Timedelta(seconds=20)
"""A basket has the one time of its receipt; its purchases are laid out this far apart."""
CLICK_AFTER, ORDER_AFTER = pd.Timedelta(seconds=4), pd.Timedelta(seconds=8)


@dataclass(frozen=True)
class SearchPlan:
    """The searches, in time order.

    Attributes:
        searches: `query_id`, `user_id`, `ts`, `split`, `fine` (class in the photo, clicked), `photo` (image_id) and
            `purchase` (row of the purchases that it led to, -1 for a visitor's, which leads to none).
        outside: the time of every purchase that began with no search, by its row.
        unused_photos: photos that no search uses.
    """

    searches: pd.DataFrame
    outside: pd.Series
    unused_photos: int


def plan_searches(purchases: Purchases, train: Photos, val: Photos) -> SearchPlan:
    """Choose the purchases that began with a search, and their photos."""
    candidates = _candidates(purchases.frame)
    train_photos, held_photos = _hold_apart(_by_class(train))
    chosen = [
        _sample(candidates[candidates["split"] == "train"], train_photos, TRAIN_SEARCHES),
        _one_each(candidates[candidates["split"] == "validation"], held_photos, VALIDATION_SEARCHES),
        _one_each(candidates[candidates["split"] == "test"], _by_class(val), 0),
    ]
    bought = pd.concat(chosen).sort_index()
    return _laid_out(purchases, bought, len(train) + len(val), _visits(val, set(bought["photo"])))


def plan_daily_searches(purchases: Purchases, *sets: Photos) -> SearchPlan:
    """Choose the purchases that began with a search for a log that may be cut anywhere: the same share of every day's,
    with any of the photos of `sets`. What may be trained on is then for the split of each day to say.
    """
    photos: dict[int, list[str]] = {}
    for photo_set in sets:
        for fine, ids in _by_class(photo_set).items():
            photos.setdefault(fine, []).extend(ids)
    first = purchases.frame.drop_duplicates(["basket", "fine"])
    candidates = first[["user_id", "fine"]].assign(split=_split_of(first["ts"]))
    return _laid_out(purchases, _sample(candidates, photos, DAILY_SEARCHES), sum(map(len, sets)))


def build_events(plan: SearchPlan, purchases: Purchases, shelf: Photos) -> pd.DataFrame:
    """All events: ten impressions and a click a search, an order where there was a purchase, and the other orders."""
    searches, items = plan.searches, shelf.item_ids
    shown = _shown(searches["fine"].to_numpy(), shelf.coarse)
    position = (shown == searches["fine"].to_numpy()[:, None]).argmax(axis=1)
    base = searches[["query_id", "user_id", "ts"]].assign(query_image_id=searches["photo"])
    impressions = [
        base.assign(event_type="impression", item_id=items[shown[:, p]], position=p + 1) for p in range(SHOWN)
    ]
    acted = base.assign(item_id=items[searches["fine"]], position=position + 1)
    clicks = acted.assign(event_type="click", ts=acted["ts"] + CLICK_AFTER)
    orders = acted.assign(event_type="order", ts=acted["ts"] + ORDER_AFTER)[searches["purchase"] >= 0]
    rows = purchases.frame.loc[plan.outside.index]
    others = pd.DataFrame(
        {"ts": plan.outside, "user_id": rows["user_id"], "event_type": "order", "item_id": items[rows["fine"]]}
    )
    events = pd.concat([*impressions, clicks, orders, others.sort_index()], ignore_index=True)
    events["position"] = events["position"].astype("Int32")
    events = events.sort_values("ts", kind="stable", ignore_index=True)
    return events.assign(event_id=[f"event-{n:06d}" for n in range(len(events))])


def _laid_out(
    purchases: Purchases, bought: pd.DataFrame, photos: int, visits: pd.DataFrame | None = None
) -> SearchPlan:
    """The plan of these searches, with times; `photos` is how many there are to search with."""
    times = _lay_out_baskets(purchases.frame, bought.index)
    bought = bought.assign(ts=times.loc[bought.index], purchase=bought.index)
    searches = pd.concat([bought, visits]).sort_values(["ts", "photo"], ignore_index=True)
    searches.insert(0, "query_id", [f"search-{n:05d}" for n in range(len(searches))])
    outside = times.drop(bought.index)
    if max(searches["ts"].max() + ORDER_AFTER, outside.max()) > AS_OF:
        raise ValueError("events are laid out past the snapshot's date")
    columns = ["query_id", "user_id", "ts", "split", "fine", "photo", "purchase"]
    return SearchPlan(searches[columns], outside, photos - searches["photo"].nunique())


def _candidates(frame: pd.DataFrame) -> pd.DataFrame:
    """One purchase of a class a basket, with its split; a basket too near a border of the split is left out."""
    first = frame.drop_duplicates(["basket", "fine"])
    splits = _split_of(first["ts"])
    clear = splits == _split_of(first["ts"] + STEP * int(frame.groupby("basket").size().max()))
    return first[["user_id", "fine"]].assign(split=splits)[clear]


def _split_of(times: pd.Series) -> np.ndarray:
    names = np.array(["train", "validation", "test"], dtype=object)
    return names[(times >= TRAIN_END).to_numpy().astype(int) + (times >= VALIDATION_END).to_numpy()]


def _by_class(photos: Photos) -> dict[int, list[str]]:
    ids = np.array(photos.image_ids, dtype=object)
    return {int(c): ids[photos.fine == c].tolist() for c in np.unique(photos.fine)}


def _hold_apart(photos: dict[int, list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    kept, held = {}, {}
    for fine, ids in photos.items():
        order = sorted(ids, key=lambda image_id: draw("held", image_id))
        count = round(HELD_SHARE * len(ids))
        held[fine], kept[fine] = order[:count], order[count:]
    return kept, held


def _shuffled(candidates: pd.DataFrame, label: str) -> pd.DataFrame:
    return candidates.loc[sorted(candidates.index, key=lambda row: draw(label, row))]


def _sample(candidates: pd.DataFrame, photos: dict[int, list[str]], count: int) -> pd.DataFrame:
    """`count` purchases, each with some photo of its class."""
    rows = _shuffled(candidates, "search").head(count)
    picks = [photos[fine][draw("photo", row) % len(photos[fine])] for row, fine in rows["fine"].items()]
    return rows.assign(photo=picks)


def _one_each(candidates: pd.DataFrame, photos: dict[int, list[str]], at_least: int) -> pd.DataFrame:
    """A purchase for each photo where its class was bought often enough; then more, until `at_least`."""
    rows = _shuffled(candidates[candidates["fine"].isin([fine for fine, ids in photos.items() if ids])], "search")
    turn = rows.groupby("fine").cumcount()
    available = rows["fine"].map({fine: len(ids) for fine, ids in photos.items()})
    more = rows.index[turn >= available][: max(0, at_least - int((turn < available).sum()))]
    taken = rows[(turn < available) | rows.index.isin(more)]
    turns = turn.loc[taken.index]
    picks = [photos[fine][t % len(photos[fine])] for fine, t in zip(taken["fine"], turns, strict=True)]
    return taken.assign(photo=picks)


def _lay_out_baskets(frame: pd.DataFrame, searched: pd.Index) -> pd.Series:
    """Time of every purchase: those of a basket one after the other, the searched ones first.

    A purchase that is not searched for must not stand before a search of its own basket, whose answer it may be.
    """
    order = frame[["basket"]].assign(later=~frame.index.isin(searched)).sort_values(["basket", "later"], kind="stable")
    place = order.groupby("basket").cumcount()
    return (frame["ts"] + place.sort_index() * STEP).rename("ts")


def _visits(val: Photos, used: set[str]) -> pd.DataFrame:
    """A search by a visitor, in the test days, for each val photo that no purchase stands for."""
    rows = [(image_id, int(c)) for image_id, c in zip(val.image_ids, val.fine, strict=True) if image_id not in used]
    days = TEST_DAYS * 24 * 3600 - 3600
    times = [VALIDATION_END + timedelta(seconds=draw("visit", image_id) % days) for image_id, _ in rows]
    return pd.DataFrame(
        {
            "user_id": [f"visitor-{n:03d}" for n in range(len(rows))],
            "ts": pd.to_datetime(times, utc=True),
            "split": "test",
            "fine": [fine for _, fine in rows],
            "photo": [image_id for image_id, _ in rows],
            "purchase": -1,
        }
    )


def _shown(wanted: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """(Q, SHOWN) classes shown: the wanted one and nine others, of its coarse class first, in random order."""
    rng = np.random.default_rng(SEED)
    rank = rng.random((len(wanted), len(coarse)))
    rank[coarse[wanted][:, None] == coarse[None]] -= 1
    rank[np.arange(len(wanted)), wanted] -= 1
    return rng.permuted(np.argsort(rank, axis=1)[:, :SHOWN], axis=1)
