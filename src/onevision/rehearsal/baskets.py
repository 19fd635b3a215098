"""What households buy next, day by day: the champion beside lists that anybody can make.

A basket is what a household orders on a day; a list hits it if any of its first k items is in it. `popularity` ranks
by all orders of the days before, `own_frequency` by the household's own, then by popularity. Both need no question.
The champion is asked with the photo of the basket's first search, which shows one product of it (`with_photo`: what a
visual search is for, and no forecast), and as the same model without any photo (`without_photo`: taste and
popularity alone).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
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
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.metrics import mean_interval
from onevision.semantic_ids.catalogue import Catalogue

CUTOFFS = (1, 5, 10)
PLACES = max(CUTOFFS)
UNASKED, ASKED = ("popularity", "own_frequency"), ("without_photo", "with_photo")
SAMPLES = 1000
_DAY = timedelta(days=1)


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
        ten; null for `without_photo` and `with_photo` where no search of the basket was measured.
    """
    catalogue = Catalogue.open(champion / "semantic_ids")
    number = catalogue.numbers()
    orders = pq.read_table(log / TABLES["events"].file, filters=[("event_type", "==", "order")]).to_pandas()
    orders = orders.assign(item=orders["item_id"].map(number), day=orders["ts"].dt.floor("D")).dropna(subset=["item"])
    lists = _asked(champion, catalogue, made, max_queries, number)
    parts = []
    for day in pd.date_range(since, until - _DAY, freq="D"):
        today = orders[orders["day"] == day]
        baskets = today.groupby("user_id")["item"].agg(lambda items: set(items.astype(int)))
        own = _ranked_by_counts(orders[orders["day"] < day], list(baskets.index), len(number))
        found = {name: _first_hits(own[name], list(baskets)) for name in UNASKED}
        for name in ASKED:
            held = [lists.get((user, day), {}).get(name) for user in baskets.index]
            hits = [
                None if h is None else int(_first_hits(h[None], [b])[0]) for h, b in zip(held, baskets, strict=True)
            ]
            found[name] = pa.array(hits, pa.int64())
        times = pa.array([day] * len(baskets), pa.timestamp("us", tz="UTC"))
        parts.append(pa.table({"user_id": pa.array(list(baskets.index), pa.string()), "day": times, **found}))
    return pa.concat_tables(parts)


def compared_baskets(answers: Iterable[pa.Table], seed: int) -> dict[str, dict[str, object]]:
    """Over all baskets (`all`) and those with a measured search (`searched`): `baskets`, and for every ranking hit@k
    as mean, low and high of the 95 % interval over baskets.
    """
    tables = list(answers)
    if not tables:
        return {}
    frame = pa.concat_tables(tables).to_pandas()
    parts = {"all": (frame, UNASKED), "searched": (frame.dropna(subset=list(ASKED)), (*UNASKED, *ASKED))}
    return {
        part: {"baskets": len(rows), **{name: _hit_rates(rows[name].to_numpy(), seed) for name in names}}
        for part, (rows, names) in parts.items()
        if len(rows)
    }


def rank_without_photo(choice: ChoiceModel, queries: QuerySet) -> NDArray[np.int64]:
    """The items (Q, `PLACES`) that the choice model takes for these shoppers if no photo says what they look for."""
    shoppers = choice.read(queries)
    blind = shoppers._replace(
        embedding=torch.zeros_like(shoppers.embedding), category=torch.zeros_like(shoppers.category)
    )
    every = torch.arange(len(choice.item_new)).expand(len(queries), -1)
    scores = choice.score(blind, every, torch.zeros(every.shape))
    ranked: NDArray[np.int64] = scores.argsort(dim=1, descending=True, stable=True)[:, :PLACES].numpy()
    return ranked


def _asked(
    champion: Path, catalogue: Catalogue, made: dict[str, Path], max_queries: int, number: dict[str, int]
) -> dict[tuple[str, pd.Timestamp], dict[str, NDArray[np.int64]]]:
    """(user, day) -> the champion's two lists for the first search of the day that was measured."""
    items = Items.load(made["semantic_ids"], Snapshot.open(made["snapshot"], verify=False))
    queries, _ = held_out_queries(made["pairs"], made["encoder"], made["features"], items, max_queries)
    times = pq.read_table(made["pairs"] / "queries.parquet", columns=["query_id", "ts"]).to_pandas()
    day = pd.Series(queries.query_id).map(times.set_index("query_id")["ts"])
    first = np.sort(
        pd.DataFrame({"user": queries.user_id, "day": day.dt.floor("D"), "ts": day})
        .sort_values("ts", kind="stable")
        .drop_duplicates(["user", "day"])
        .index.to_numpy()
    )
    asked = queries.take(first)
    choice = ChoiceModel.from_pretrained(open_artifact(champion / "generator", verify=False).path, catalogue)
    blind = rank_without_photo(choice, asked)
    ranks = pq.read_table(made["evaluation"] / "ranks.parquet", filters=[("system", "==", CHAMPION)]).to_pandas()
    shown = ranks.set_index("query_id")["items"]
    lists = {}
    for row, (user, query) in enumerate(zip(asked.user_id, asked.query_id, strict=True)):
        found = np.array([number.get(item, -1) for item in shown[query]], dtype=np.int64)
        lists[user, day[first[row]].floor("D")] = {"without_photo": blind[row], "with_photo": found}
    return lists


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


def _hit_rates(ranks: NDArray[np.float64], seed: int) -> dict[str, list[float]]:
    rates = {}
    for k in CUTOFFS:
        interval = mean_interval((ranks > 0) & (ranks <= k), SAMPLES, seed)
        rates[f"hit@{k}"] = [round(value, 4) for value in (interval.mean, interval.low, interval.high)]
    return rates
