"""A small random event log full of ties and late rows, and the sequences that it means, by brute force."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.artifacts import finish_artifact, start_artifact
from onevision.data.contract import EVENT_TYPES, EVENTS, IMAGES, TIMESTAMP, USERS
from onevision.features.config import FeaturesConfig
from onevision.features.definitions import SEQUENCES
from onevision.features.stage import run

BEGIN = datetime(2025, 3, 1, tzinfo=UTC)
AS_OF = BEGIN + timedelta(days=8)
MICROSECOND = timedelta(microseconds=1)
CONFIG = FeaturesConfig(recent_length=4, long_length=9, intent_ttl_days=1, order_ttl_days=2, taste_ttl_days=4)
INTERACTIONS = ("click", "cart", "order")
USER_IDS = [f"u{k}" for k in range(7)]
QUERIES = pa.schema([("query_id", pa.string()), ("user_id", pa.string()), ("ts", TIMESTAMP), ("split", pa.string())])


def random_log(seed, events=400, people=USER_IDS):
    """Events of six days on a grid of three hours, so that many share their microsecond, in no order.

    Searches last for days, so that their first click is not always near; u5 falls silent after two days, and the last
    of the people never does anything.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(events)
    active = people[:-1]
    rows = []
    for k in range(events):
        search = f"q{rng.integers(10 * len(people))}" if rng.random() < 0.8 else None
        user = active[int(search[1:]) % len(active)] if search else active[rng.integers(len(active))]
        rows.append(
            {
                "event_id": f"e{names[k]:05d}",
                "ts": BEGIN + timedelta(hours=3 * int(rng.integers(0, 8 * (2 if user == "u5" else 6)))),
                "user_id": user,
                "event_type": str(rng.choice(EVENT_TYPES)),
                "item_id": f"i{rng.integers(25)}",
                "query_id": search,
                "query_image_id": f"photo{int(search[1:])}" if search else None,
                "position": 1 if search else None,
            }
        )
    return rows


def photographed(image):
    """What the photo of a search shows; every third shows something unknown."""
    k = int(image.removeprefix("photo"))
    return None if k % 3 == 0 else f"i{k % 25}"


def account(user):
    """When the account was made, and its segment: the first user has none, the second came late."""
    k = int(user[1:])
    return BEGIN + timedelta(days=2 if k == 1 else 0), None if k == 0 else f"segment {k % 2}"


def write_log(folder, rows, queries, as_of=AS_OF, people=USER_IDS):
    """Artifacts `snapshot` and `pairs`, with only what the features stage reads."""
    snapshot, pairs = start_artifact(folder / "snapshot"), start_artifact(folder / "pairs")
    image_rows = [
        {"image_id": image, "item_id": photographed(image), "view": "user_photo", "created_at": BEGIN}
        for image in (f"photo{k}" for k in range(10 * len(people)))
    ]
    user_rows = [dict(zip(("user_id", "created_at", "segment"), (u, *account(u)), strict=True)) for u in people]
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS.schema), snapshot / EVENTS.file)
    pq.write_table(pa.Table.from_pylist(image_rows, schema=IMAGES.schema), snapshot / IMAGES.file)
    pq.write_table(pa.Table.from_pylist(user_rows, schema=USERS.schema), snapshot / USERS.file)
    finish_artifact(snapshot, "snapshot", extra={"as_of": as_of.isoformat()})
    pq.write_table(pa.Table.from_pylist(queries, schema=QUERIES), pairs / "queries.parquet")
    finish_artifact(pairs, "pairs")
    return snapshot, pairs


def features_artifact(folder, rows, as_of=AS_OF, without=None):
    """A features artifact of these events; of a shop that has deleted an account, if `without` names one."""
    query = {"query_id": "q", "user_id": "u1", "ts": BEGIN + timedelta(days=2), "split": "test"}
    snapshot, pairs = write_log(folder, rows, [query], as_of)
    if without is not None:
        users = pq.read_table(snapshot / USERS.file)
        pq.write_table(users.filter([user != without for user in users["user_id"].to_pylist()]), snapshot / USERS.file)
        manifest = json.loads((snapshot / "manifest.json").read_text())
        del manifest["files"][USERS.file]
        (snapshot / "manifest.json").write_text(json.dumps(manifest))
    run(snapshot=snapshot, pairs=pairs, out=folder / "out", config=CONFIG, seed=7)
    return folder / "out"


def expected(rows, user, time, config):
    """What each sequence holds for a user at a time: only strictly earlier events, and only while it is alive."""
    past = sorted((r for r in rows if r["user_id"] == user and r["ts"] < time), key=lambda r: (r["ts"], r["event_id"]))
    result = {}
    for sequence in SEQUENCES:
        entries = _ENTRIES[sequence.name](past)
        alive = entries and time <= entries[-1][0] + MICROSECOND + sequence.life(config)
        newest_first = [item for _, item in reversed(entries)]
        result[sequence.name] = newest_first[: sequence.greatest_length(config)] if alive else []
    since, segment = account(user) if user.startswith("u") else (None, None)
    result["segment"] = segment if since and since <= time else None
    return result


def _interactions(past):
    entries, seen = [], set()
    for row in past:
        once = (row["item_id"], row["query_id"])
        if row["event_type"] not in INTERACTIONS or (row["query_id"] is not None and once in seen):
            continue
        seen.add(once)
        entries.append((row["ts"], row["item_id"]))
    return entries


def _searches(past):
    entries, seen = [], set()
    for row in past:
        if row["query_id"] is None or row["query_id"] in seen:
            continue
        item = photographed(row["query_image_id"])
        if item is None and row["event_type"] in INTERACTIONS:
            item = row["item_id"]
        if item is not None:
            seen.add(row["query_id"])
            entries.append((row["ts"], item))
    return entries


def _orders(past):
    return [(row["ts"], row["item_id"]) for row in past if row["event_type"] == "order"]


_ENTRIES = {
    "recent_clicked": _interactions,
    "recent_searched": _searches,
    "recent_ordered": _orders,
    "long_history": _interactions,
}
