"""What households buy next, day by day: the champion beside lists that anybody can make.

A basket is what a household orders on a day; a list hits it if any of its first k items is in it. `popularity` ranks
by all orders of the days before, `own_frequency` by the household's own, then by popularity. The champion is asked
without any photo, of what was known at the day's first moment (`without_photo`: its choice model's prior, which is
popularity and what the household took before, how often and how lately). None of the three knows anything of the day.
And it is asked with the photo of the basket's first search, which shows one product of it (`with_photo`: what a visual
search is for, and no forecast).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from onevision.artifacts import open_artifact
from onevision.data.contract import TABLES
from onevision.data.snapshot import Snapshot
from onevision.evaluation.beside import CHAMPION
from onevision.evaluation.items import Items
from onevision.evaluation.stage import held_out_queries
from onevision.features.definitions import SEGMENT
from onevision.features.history import historical_rows
from onevision.features.online import REPOSITORY, open_features
from onevision.features.repository import open_store
from onevision.generator.choice import FEATURES, HISTORIES, ChoiceModel, Shoppers
from onevision.metrics import mean_interval
from onevision.semantic_ids.catalogue import Catalogue

CUTOFFS = (1, 5, 10)
PLACES = max(CUTOFFS)
FORECASTS, ASKED = ("popularity", "own_frequency", "without_photo"), "with_photo"
LESS = ("without_photo", "own_frequency")
BASKETS_A_BATCH = 512
SAMPLES = 1000


def ask_baskets(
    log: Path, champion: Path, made: dict[str, Path], max_queries: int, since: datetime, until: datetime
) -> pa.Table:
    """Rank for every basket of the days from `since` to `until` (both at 00:00 UTC).

    Args:
        log: the snapshot of everything that happens; champion: the bundle that was served on these days.
        made: artifacts of the night after them, whose evaluation asked the champion with the photos.
        max_queries: as the evaluation was told.

    Returns:
        one row a basket: `user_id`, `day`, and for every ranking the rank of the first item that hits, 0 for none among
        ten; null for `with_photo` where no search of the basket was measured.
    """
    catalogue = Catalogue.open(champion / "semantic_ids")
    number = catalogue.numbers()
    orders = pq.read_table(log / TABLES["events"].file, filters=[("event_type", "==", "order")]).to_pandas()
    orders = orders.assign(item=orders["item_id"].map(number), day=orders["ts"].dt.floor("D")).dropna(subset=["item"])
    asked = _asked(made, max_queries, number)
    choice = ChoiceModel.from_pretrained(open_artifact(champion / "generator", verify=False).path, catalogue)
    baskets = orders[(orders["day"] >= since) & (orders["day"] < until)].groupby(["day", "user_id"])["item"]
    wanted = baskets.agg(lambda items: set(items.astype(int))).reset_index()
    forecast = _forecast(choice, made["features"], wanted["user_id"], wanted["day"])
    parts = []
    for day, of_day in wanted.groupby("day"):
        users, held = of_day["user_id"].tolist(), of_day["item"].tolist()
        lists = _ranked_by_counts(orders[orders["day"] < day], users, len(number))
        lists["without_photo"] = forecast[of_day.index]
        found: dict[str, object] = {name: _first_hits(lists[name], held) for name in FORECASTS}
        shown = [asked.get((user, day)) for user in users]
        hits = [None if s is None else int(_first_hits(s[None], [b])[0]) for s, b in zip(shown, held, strict=True)]
        found[ASKED] = pa.array(hits, pa.int64())
        times = pa.array([day] * len(users), pa.timestamp("us", tz="UTC"))
        parts.append(pa.table({"user_id": pa.array(users, pa.string()), "day": times, **found}))
    return pa.concat_tables(parts)


def compared_baskets(answers: Iterable[pa.Table], seed: int) -> dict[str, dict[str, object]]:
    """Over all baskets (`all`) and those with a measured search (`searched`): `baskets`, and for every ranking hit@k
    as mean, low and high of the 95 % interval over baskets; of `LESS` the differences on the same baskets.
    """
    tables = list(answers)
    if not tables:
        return {}
    frame = pa.concat_tables(tables).to_pandas()
    parts = {"all": (frame, FORECASTS), "searched": (frame.dropna(subset=[ASKED]), (*FORECASTS, ASKED))}
    return {
        part: {
            "baskets": len(rows),
            **{name: _rates([_hits(rows[name], k) for k in CUTOFFS], seed) for name in names},
            "_less_".join(LESS): _rates([_hits(rows[LESS[0]], k) - _hits(rows[LESS[1]], k) for k in CUTOFFS], seed),
        }
        for part, (rows, names) in parts.items()
        if len(rows)
    }


def rank_without_photo(choice: ChoiceModel, shoppers: Shoppers) -> NDArray[np.int64]:
    """The items (Q, `PLACES`) that these shoppers take if no photo says what they look for.

    That is the choice model's prior: popularity, and how much likelier an item is to this shopper by what they took
    before. Both weigh 1 (a Dirichlet posterior): weights learnt beside a photo say how far to trust the photo.
    """
    every = torch.arange(len(choice.item_new)).expand(len(shoppers.segment), -1)
    known = choice.known(shoppers, every)
    scores = known[..., FEATURES.index("popularity")] + known[..., FEATURES.index("again")]
    ranked: NDArray[np.int64] = scores.argsort(dim=1, descending=True, stable=True)[:, :PLACES].numpy()
    return ranked


def _forecast(choice: ChoiceModel, features: Path, users: Sequence[str], days: Sequence[datetime]) -> NDArray[np.int64]:
    """(B, `PLACES`) what the choice model says of users (B,) from what had happened when their day (B,) began."""
    folder = open_features(features).file(REPOSITORY)
    keys = pa.array([str(n) for n in range(len(users))])
    moments = pa.table({"query_id": keys, "user_id": list(users), "ts": pa.array(days, pa.timestamp("us", tz="UTC"))})
    with tempfile.TemporaryDirectory(prefix="onevision-features-") as scratch:
        rows = historical_rows(open_store(folder, Path(scratch)), moments)
    lists = [rows[name].to_pylist() for name in HISTORIES]
    shoppers = choice.read_without_photo(rows[SEGMENT].to_pylist(), lists)
    parts = torch.arange(len(users)).split(BASKETS_A_BATCH)
    return np.concatenate([rank_without_photo(choice, Shoppers(*(value[p] for value in shoppers))) for p in parts])


def _asked(
    made: dict[str, Path], max_queries: int, number: dict[str, int]
) -> dict[tuple[str, pd.Timestamp], NDArray[np.int64]]:
    """(user, day) -> what the champion found for the photo of the first search of the day that was measured."""
    items = Items.load(made["semantic_ids"], Snapshot.open(made["snapshot"], verify=False))
    queries, _ = held_out_queries(made["pairs"], made["encoder"], made["features"], items, max_queries)
    times = pq.read_table(made["pairs"] / "queries.parquet", columns=["query_id", "ts"]).to_pandas()
    ts = pd.Series(queries.query_id).map(times.set_index("query_id")["ts"])
    searches = pd.DataFrame({"user": queries.user_id, "query": queries.query_id, "ts": ts, "day": ts.dt.floor("D")})
    first = searches.sort_values("ts", kind="stable").drop_duplicates(["user", "day"])
    ranks = pq.read_table(made["evaluation"] / "ranks.parquet", filters=[("system", "==", CHAMPION)]).to_pandas()
    shown = ranks.set_index("query_id")["items"]
    return {
        (user, day): np.array([number.get(item, -1) for item in shown[query]], dtype=np.int64)
        for user, day, query in zip(first["user"], first["day"], first["query"], strict=True)
    }


def _ranked_by_counts(orders: pd.DataFrame, users: list[str], items: int) -> dict[str, NDArray[np.int64]]:
    """Popularity and own frequency for each user, (U, `PLACES`)."""
    bought = orders["item"].to_numpy(dtype=np.int64)
    popular = np.bincount(bought, minlength=items).astype(float)
    row = pd.Series(np.arange(len(users)), index=users)
    mine = orders["user_id"].map(row)
    own = np.zeros((len(users), items))
    known = mine.notna().to_numpy()
    np.add.at(own, (mine[known].to_numpy(dtype=np.int64), bought[known]), 1.0)
    own += popular / (popular.sum() + 1)  # less than one order
    return {
        "popularity": np.broadcast_to(np.argsort(-popular, kind="stable")[:PLACES], (len(users), PLACES)),
        "own_frequency": np.argsort(-own, axis=1, kind="stable")[:, :PLACES],
    }


def _first_hits(ranked: NDArray[np.int64], baskets: list[set[int]]) -> NDArray[np.int64]:
    """Rank, from 1, of the first item that is in the basket; 0 for none."""
    hits = np.array([[item in basket for item in row] for row, basket in zip(ranked, baskets, strict=True)], dtype=bool)
    hits = hits.reshape(len(baskets), -1)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def _hits(ranks: pd.Series, k: int) -> NDArray[np.float64]:
    return ranks.between(1, k).to_numpy().astype(np.float64)


def _rates(values: Sequence[NDArray[np.float64]], seed: int) -> dict[str, list[float]]:
    """Of one array (B,) a cutoff: mean, low and high."""
    rates = {}
    for k, value in zip(CUTOFFS, values, strict=True):
        interval = mean_interval(value, SAMPLES, seed)
        rates[f"hit@{k}"] = [round(bound, 4) for bound in (interval.mean, interval.low, interval.high)]
    return rates
