"""The event log: impressions, clicks, carts and orders of searches, and clicks of those who browse."""

from __future__ import annotations

import numpy as np
import pandas as pd

from onevision.data.config import SnapshotConfig
from onevision.data.contract import EVENT_TYPES
from onevision.data.synthetic.catalogue import Catalogue, utc
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.searches import Searches
from onevision.data.synthetic.shapes import CATEGORIES
from onevision.data.synthetic.shoppers import Shoppers, seasonal_interest, taste_axes, visit_times

BROWSE_SHARE = 0.7
"""Browse clicks (outside search) for each search."""
CART_BIAS, ORDER_BIAS = -1.9, -0.6
TASTE_PULL, PRICE_PUSH = 0.25, 0.4
_SECOND = 1_000_000
_IMPRESSION, _CLICK, _CART, _ORDER = range(4)

Rows = dict[str, Floats]
"""Columns of events: time, user, type, item, query (-1 outside search), position (-1 outside search)."""


def make_events(
    config: SnapshotConfig, catalogue: Catalogue, shoppers: Shoppers, searches: Searches, rng: np.random.Generator
) -> pd.DataFrame:
    """The contract's `events` table, sorted by time, ids in that order."""
    impressions = _impressions(searches)
    clicks = _concatenate([_search_clicks(searches, rng), _browse_clicks(config, catalogue, shoppers, rng)])
    carts, orders = _purchases(catalogue, shoppers, clicks, rng)
    rows = _concatenate([impressions, clicks, carts, orders])
    order = np.lexsort((rows["position"], rows["item"], rows["type"], rows["query"], rows["time"]))
    rows = {name: column[order] for name, column in rows.items()}
    return events_table(rows, catalogue, shoppers)


def query_id(row: int) -> str:
    """Id of a search."""
    return f"query-{row:07d}"


def query_image_id(row: int) -> str:
    """Id of the photo that was searched with."""
    return f"query-{row:07d}-photo"


def events_table(rows: Rows, catalogue: Catalogue, shoppers: Shoppers) -> pd.DataFrame:
    """Columns of events as the contract's table."""
    searched = rows["query"] >= 0
    item_ids, user_ids = np.array(catalogue.ids, object), np.array(shoppers.ids, object)
    return pd.DataFrame(
        {
            "event_id": [f"event-{i:08d}" for i in range(len(searched))],
            "ts": utc(rows["time"]),
            "user_id": user_ids[rows["user"]],
            "event_type": np.array(EVENT_TYPES, object)[rows["type"]],
            "item_id": item_ids[rows["item"]],
            "query_id": [query_id(q) if q >= 0 else None for q in rows["query"]],
            "query_image_id": [query_image_id(q) if q >= 0 else None for q in rows["query"]],
            "position": pd.array(np.where(searched, rows["position"], 0), dtype="Int32").copy(),
        }
    ).assign(position=lambda table: table["position"].mask(~searched))


def _rows(time: Floats, user: Floats, kind: int, item: Floats, query: Floats, position: Floats) -> Rows:
    kinds = np.full(len(time), kind)
    return {"time": time, "user": user, "type": kinds, "item": item, "query": query, "position": position}


def _concatenate(parts: list[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _seconds(low: float, high: float, count: int, rng: np.random.Generator) -> Floats:
    return (rng.uniform(low, high, count) * _SECOND).astype("timedelta64[us]")


def _impressions(searches: Searches) -> Rows:
    query, place = np.nonzero(searches.shown >= 0)
    return _rows(
        searches.time[query], searches.user[query], _IMPRESSION, searches.shown[query, place], query, place + 1
    )


def _search_clicks(searches: Searches, rng: np.random.Generator) -> Rows:
    query, turn = np.nonzero(searches.clicked >= 0)
    item = searches.clicked[query, turn]
    position = (searches.shown[query] == item[:, None]).argmax(axis=1) + 1
    # A minute for each click keeps the order of clicks, whatever the seconds in it.
    time = searches.time[query] + turn * np.timedelta64(60 * _SECOND, "us") + _seconds(4, 55, len(query), rng)
    return _rows(time, searches.user[query], _CLICK, item, query, position)


def _browse_clicks(config: SnapshotConfig, catalogue: Catalogue, shoppers: Shoppers, rng: np.random.Generator) -> Rows:
    """Clicks while looking around: among two dozen popular items, by interest and taste."""
    user, time = visit_times(config, shoppers, round(BROWSE_SHARE * config.queries), rng)
    drawn = rng.choice(len(catalogue), size=(len(user), 24), p=catalogue.popularity)
    score = shoppers.interest[user[:, None], catalogue.category[drawn]] + rng.gumbel(size=drawn.shape)
    score += seasonal_interest(config, catalogue.category[drawn], time)
    score += np.einsum("qa,qka->qk", shoppers.taste[user], taste_axes(catalogue)[drawn])
    score[catalogue.created[drawn] >= time[:, None]] = -np.inf
    everyone = np.arange(len(user))
    best = score.argmax(axis=1)
    found = np.flatnonzero(np.isfinite(score[everyone, best]))
    nowhere = np.full(len(found), -1)
    return _rows(time[found], user[found], _CLICK, drawn[found, best[found]], nowhere, nowhere)


def _purchases(catalogue: Catalogue, shoppers: Shoppers, clicks: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Carts, and orders of what is in a cart: more to one's taste, fewer of what is dear for its category."""
    typical = np.array([c.price for c in CATEGORIES])[catalogue.category[clicks["item"]]]
    taste = np.einsum("ea,ea->e", shoppers.taste[clicks["user"]], taste_axes(catalogue)[clicks["item"]])
    pull = TASTE_PULL * taste - PRICE_PUSH * np.log(catalogue.price[clicks["item"]] / typical)
    in_cart = rng.random(len(pull)) < _sigmoid(CART_BIAS + pull)
    carts = _later(clicks, in_cart, _CART, 15, 240, rng)
    bought = rng.random(len(carts["time"])) < _sigmoid(ORDER_BIAS + pull[in_cart])
    return carts, _later(carts, bought, _ORDER, 60, 900, rng)


def _later(rows: Rows, chosen: Floats, kind: int, low: float, high: float, rng: np.random.Generator) -> Rows:
    kept = {name: column[chosen] for name, column in rows.items()}
    time = kept["time"] + _seconds(low, high, len(kept["time"]), rng)
    return kept | {"time": time, "type": np.full(len(time), kind)}


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))
