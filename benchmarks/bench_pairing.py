"""Pairing a click log: the SQL of `mining.py` on DuckDB beside pandas, each in a process of its own, on the same file.

Run: python benchmarks/bench_pairing.py [--events 20000000] [--items 100000] [--users 400000] [--out FILE]

What is paired: the log is cleaned of bots, photos are paired with the views of items that were acted on, items with
items clicked in one visit, and each item keeps its strongest co-clicks. Both sides read the Parquet files, compute and
write the pairs, which must be equal. At its full size it takes five to fifteen minutes, by what else the machine
does, 5 GB of memory (for pandas) and 2 GB of disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.data.contract import EVENTS, TIMESTAMP
from onevision.pairing.engines import DuckDB
from onevision.pairing.mining import ACTS, CO_CLICK, LIMIT, LOG, NUMBERED_ITEMS, OFFENDERS, QUERY_ITEM
from onevision.pairing.tables import named_pairs, write_pairs

BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
DAY = 86_400_000_000
DAYS = 30
TRAIN_END = BEGIN + 22 * DAY
"""Training ends eight days before the log does, as by default."""
SEARCH = 5
"""Events of a search, and of a stretch of browsing."""
PART = 200_000
"""Searches written at once: the log never is in memory."""
KINDS = np.array(["impression", "click", "cart", "order"])
PATTERNS = np.array([[0, 0, 1, 1, 1], [0, 0, 1, 1, 2], [0, 0, 0, 1, 1], [0, 1, 1, 2, 3]])
"""What happens in a search: four patterns, 8 impressions, 9 clicks, 2 carts and 1 order in 20 events."""
COLUMNS = "image_a, image_b, item_a, item_b, kind, weight"
MAX_CLICKS, MAX_VIEWS, MAX_CO_CLICK = 30, 64, 10
CLICK, CART, ORDER, CO_CLICK_WEIGHT = 1.0, 1.5, 2.0, 0.5


def ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    """Identifiers of text, as shops have."""
    return pa.array(np.char.add(prefix, np.char.zfill(numbers.astype("U9"), 9)))


def write_shop(folder: Path, events: int, items: int, users: int, seed: int = 7) -> None:
    """Write `events`, `users` and `pictures`: every other search is by photo, one user in a thousand is a bot."""
    rng = np.random.default_rng(seed)
    photos = max(1, events // SEARCH // 4)
    with pq.ParquetWriter(folder / "events.parquet", EVENTS.schema, compression="zstd") as writer:
        for first in range(0, events // SEARCH, PART):
            search = np.arange(first, min(first + PART, events // SEARCH))
            user = (users * rng.random(len(search)) ** 2).astype(np.int64)
            second = rng.integers(0, DAYS * 86_400, len(search))
            second[user % 1000 == 0] //= 20_000  # bots: all they do falls into a few minutes
            wanted = (items * rng.random(len(search)) ** 2).astype(np.int64)
            item = (wanted[:, None] + rng.integers(0, 12, (len(search), SEARCH)) ** 2) % items
            offset = np.arange(SEARCH) * rng.integers(0, 9, (len(search), 1))
            photo = np.where(search % 2 == 0, search // 2 % photos, -1)
            by_photo = np.repeat(photo >= 0, SEARCH)
            rows = np.repeat(search, SEARCH)
            columns = {
                "event_id": ids("e", rows * SEARCH + np.tile(np.arange(SEARCH), len(search))),
                "ts": pa.array(((second[:, None] + offset) * 1_000_000 + BEGIN).ravel()).cast(TIMESTAMP),
                "user_id": ids("user-", np.repeat(user, SEARCH)),
                "event_type": pa.array(KINDS[PATTERNS[rng.integers(0, 4, len(search))].ravel()]),
                "item_id": ids("item-", item.ravel()),
                "query_id": _where(by_photo, ids("q", rows)),
                "query_image_id": _where(by_photo, ids("photo-", np.repeat(photo, SEARCH).clip(0))),
                "position": pa.array(np.tile(np.arange(1, SEARCH + 1, dtype=np.int32), len(search))),
            }
            writer.write_table(pa.table(columns, schema=EVENTS.schema))
    accounts = {
        "user_id": ids("user-", np.arange(users)),
        "created_at": pa.array(BEGIN - DAY + (rng.random(users) < 0.001) * 3 * DAY).cast(TIMESTAMP),
        "segment": pa.nulls(users, pa.string()),
    }
    pq.write_table(pa.table(accounts), folder / "users.parquet")
    views = np.arange(2 * items)
    pictures = {
        "image_id": pa.concat_arrays([ids("picture-", views), ids("photo-", np.arange(photos))]),
        "item_id": pa.concat_arrays([ids("item-", views // 2), ids("item-", rng.integers(0, items, photos))]),
        "view": np.concatenate([np.array(["main", "sku"])[views % 2], np.full(photos, "user_photo")]),
        "catalogue": np.arange(len(views) + photos) < len(views),
        "seen": pa.array(np.where(np.arange(len(views) + photos) < len(views), BEGIN - DAY, BEGIN)),
    }
    pq.write_table(pa.table(pictures), folder / "pictures.parquet")


def _where(mask: np.ndarray, values: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(mask), values, pa.scalar(None, values.type))


def numbers() -> dict[str, object]:
    """What the statements take for `$name`."""
    weights = {"order_weight": ORDER, "cart_weight": CART, "click_weight": CLICK, "co_click_weight": CO_CLICK_WEIGHT}
    limits = {"max_clicks": MAX_CLICKS, "max_views": MAX_VIEWS, "max_co_click": MAX_CO_CLICK, "max_same_item": 0}
    borders = {"train_end": TRAIN_END, "validation_end": BEGIN + 26 * DAY, "as_of": BEGIN + DAYS * DAY}
    return weights | limits | borders | {"seed": 7, "source": "mined"}


def duckdb_pairs(folder: Path, memory_gb: float) -> pa.Table:
    """Ours: the statements of `mining.py`, as the stage runs them."""
    with tempfile.TemporaryDirectory(dir=folder) as spill:
        engine = DuckDB(memory_gb, spill)
        for name in ("events", "users", "pictures"):
            engine.add_parquet(f"raw_{name}", folder / f"{name}.parquet")
        engine.run("CREATE TEMPORARY VIEW events AS SELECT * REPLACE (unix_micros(ts) AS ts) FROM raw_events")
        engine.run(
            "CREATE TEMPORARY VIEW users AS SELECT user_id, unix_micros(created_at) AS created_at FROM raw_users"
        )
        engine.run("CREATE TEMPORARY VIEW categories AS SELECT 'all' AS category_id, NULL AS parent_id")
        engine.run(
            "CREATE TEMPORARY VIEW items AS SELECT DISTINCT item_id, 0 AS created_at, 'all' AS category_id "
            "FROM raw_pictures WHERE item_id IS NOT NULL"
        )
        engine.run(NUMBERED_ITEMS)
        engine.run(
            "CREATE TABLE pictures AS SELECT p.*, i.item, CAST(ROW_NUMBER() OVER (ORDER BY image_id) - 1 AS INT) "
            "AS picture FROM raw_pictures p LEFT JOIN numbered_items i ON p.item_id = i.item_id"
        )
        sources = " UNION ALL ".join(f"SELECT * FROM ({source}) mined" for source in (QUERY_ITEM, CO_CLICK))
        for sql in (OFFENDERS, LOG, ACTS, f"CREATE TABLE mined AS SELECT * FROM ({sources}) WHERE honest"):
            engine.run(Template(sql).substitute(numbers()))
        rows = engine.fetch(Template(f"SELECT a, b, kind, weight FROM ({LIMIT}) limited").substitute(numbers()))
        return named_pairs(rows, engine.fetch("SELECT image_id, item_id, view FROM pictures ORDER BY picture"))


def pandas_pairs(folder: Path) -> pd.DataFrame:
    """The same in pandas: only the columns and rows that matter, vectorised, what is done with freed."""
    columns = ["ts", "user_id", "event_type", "item_id", "query_id", "query_image_id"]
    events = pd.read_parquet(folder / "events.parquet", columns=columns)
    events["ts"] = events["ts"].astype("int64")
    users = pd.read_parquet(folder / "users.parquet", columns=["user_id", "created_at"])
    born = users.set_index("user_id")["created_at"].astype("int64")
    early = events.loc[events["ts"] < events["user_id"].map(born), ["user_id", "ts"]]
    clicks = events.loc[events["event_type"] == "click", ["user_id", "ts"]].sort_values(["user_id", "ts"])
    fast = clicks[clicks["ts"] - clicks.groupby("user_id", sort=False)["ts"].shift(MAX_CLICKS) < 60_000_000]
    since = pd.concat([early, fast]).groupby("user_id")["ts"].min()
    del clicks, early, fast
    events = events[(events["ts"] < TRAIN_END) & (events["event_type"] != "impression")]
    events = events[~events["user_id"].isin(since[since < TRAIN_END].index)]
    pictures = pd.read_parquet(folder / "pictures.parquet")
    views = pictures[pictures["catalogue"] & (pictures["seen"] < TRAIN_END)]
    pairs = [_pandas_query_item(events, pictures, views), _pandas_co_click(events, views)]
    return pd.concat(pairs, ignore_index=True)


def _pandas_query_item(events: pd.DataFrame, pictures: pd.DataFrame, views: pd.DataFrame) -> pd.DataFrame:
    acts = events.loc[events["query_image_id"].notna(), ["query_image_id", "item_id", "event_type"]]
    acts = acts.assign(strength=acts["event_type"].map({"click": 1, "cart": 2, "order": 3}).astype("int8"))
    best = acts.groupby(["query_image_id", "item_id"], sort=False)["strength"].max().reset_index()
    pairs = best.merge(views[["image_id", "item_id", "view"]], on="item_id")
    pairs = pairs.rename(columns={"query_image_id": "image_a", "image_id": "image_b", "item_id": "item_b"})
    photos = pictures[["image_id", "item_id"]].rename(columns={"image_id": "image_a", "item_id": "item_a"})
    pairs = pairs.merge(photos, on="image_a")
    pairs = pairs[pairs["image_a"] != pairs["image_b"]]
    strength: pd.Series = pairs["strength"].map({1: CLICK, 2: CART, 3: ORDER})
    weight = strength * np.where(pairs["view"] == "main", 1.0, 0.5)
    kind = pairs["strength"].map({1: "query_click", 2: "query_cart", 3: "query_order"})
    return pairs.assign(kind=kind, weight=weight)[COLUMNS.split(", ")]


def _pandas_co_click(events: pd.DataFrame, views: pd.DataFrame) -> pd.DataFrame:
    clicks = events.loc[events["event_type"] == "click", ["user_id", "query_id", "item_id", "ts"]]
    day = clicks["user_id"] + "/" + (clicks["ts"] // DAY).astype(str)
    clicks = clicks.assign(visit=pd.factorize(clicks["query_id"].fillna(day))[0])
    visits = clicks.groupby(["visit", "item_id"], sort=False)["ts"].min().reset_index()
    visits = visits.sort_values(["visit", "ts", "item_id"])[["visit", "item_id"]]
    visits = visits[visits.groupby("visit").cumcount() < MAX_VIEWS]
    popularity = visits["item_id"].value_counts()
    size = visits.groupby("visit")["item_id"].transform("size")
    visits = visits.assign(millionths=1_000_000 // (size - 1).clip(lower=1))[size > 1]
    both = visits.merge(visits[["visit", "item_id"]], on="visit", suffixes=("_a", "_b"))
    both = both[both["item_id_a"] < both["item_id_b"]]
    pairs = both.groupby(["item_id_a", "item_id_b"], sort=False)["millionths"].sum().reset_index()
    pairs.columns = pd.Index(["item_a", "item_b", "millionths"])
    faces = views[views["view"] == "main"].set_index("item_id")["image_id"]
    visits_of_both = pairs["item_a"].map(popularity) * pairs["item_b"].map(popularity)
    pairs["weight"] = CO_CLICK_WEIGHT * pairs["millionths"] / 1_000_000 / np.sqrt(visits_of_both)
    flipped = pairs.rename(columns={"item_a": "item_b", "item_b": "item_a"})
    ends = pd.concat([pairs, flipped])[["item_a", "item_b", "weight"]].reset_index()
    ends = ends.sort_values(["item_a", "weight", "item_b"], ascending=[True, False, True])
    crowded = ends.loc[ends.groupby("item_a").cumcount() >= MAX_CO_CLICK, "index"].unique()
    pairs = pairs.drop(crowded)
    images = {"image_a": pairs["item_a"].map(faces), "image_b": pairs["item_b"].map(faces)}
    return pairs.assign(kind="co_click", **images)[COLUMNS.split(", ")]


def run_side(side: str, folder: Path, memory_gb: float) -> None:
    """One side, in this process: write its pairs and what they cost."""
    if side == "duckdb":
        write_pairs(duckdb_pairs(folder, memory_gb), folder / "pairs-duckdb.parquet")
    else:
        pandas_pairs(folder).to_parquet(folder / "pairs-pandas.parquet", index=False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
    (folder / f"{side}.json").write_text(json.dumps(cost))


def difference(folder: Path) -> tuple[int, int]:
    """Pairs in all, and those that only one side has or weighs differently (beyond one part in 10^12)."""
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(folder / "spill")}) as connection:
        for side in ("duckdb", "pandas"):
            connection.read_parquet(str(folder / f"pairs-{side}.parquet")).create_view(side)
        return connection.execute(
            "SELECT COUNT(*), COUNT(*) FILTER (a.kind IS NULL OR b.kind IS NULL OR a.item_a <> b.item_a "
            "OR a.item_b <> b.item_b OR abs(a.weight - b.weight) > 1e-12 * a.weight) "
            'FROM duckdb a FULL JOIN "pandas" b USING (kind, image_a, image_b)'
        ).fetchone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=400_000)
    parser.add_argument("--memory-gb", type=float, default=0.25, help="DuckDB's own limit")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--side", choices=["duckdb", "pandas"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder, arguments.memory_gb)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_shop(folder, arguments.events, arguments.items, arguments.users)
        costs = {}
        for side in ("duckdb", "pandas"):
            command = [sys.executable, __file__, "--side", side, "--folder", scratch]
            subprocess.run([*command, "--memory-gb", str(arguments.memory_gb)], check=True)
            costs[side] = json.loads((folder / f"{side}.json").read_text())
            cpu, peak = costs[side].values()
            print(f"{side:7s} {cpu:7.1f} CPU s, peak memory {peak:7,.0f} MB", flush=True)
        pairs, differing = difference(folder)
    ratios = {name: costs["pandas"][name] / costs["duckdb"][name] for name in costs["duckdb"]}
    print(f"{arguments.events:,} events, {pairs:,} pairs, {differing} differ; pandas takes", end=" ")
    print(f"{ratios['cpu_seconds']:.1f}x the CPU and {ratios['peak_mb']:.1f}x the memory")
    if arguments.out:
        sizes = {name: getattr(arguments, name) for name in ("events", "items", "users", "memory_gb")}
        found = sizes | {"pairs": pairs, "pairs_that_differ": differing} | costs | {"ratio": ratios}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if differing == 0 else 1)


if __name__ == "__main__":
    main()
