"""Parity: for 1,000 random (user, time) the offline row, the online row after materialising to that time, and brute
force over the raw events are equal, item by item, on SQLite and on a Redis that the tests start.

The times are a handful of moments, so that a store is materialised once for each of them, as nights do it.
"""

from collections import Counter
from dataclasses import asdict
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from feature_event_log import BEGIN, CONFIG, MICROSECOND, QUERIES, expected, random_log, write_log

from onevision.features import repository
from onevision.features.definitions import SEQUENCES
from onevision.features.history import SCHEMA, historical_rows
from onevision.features.online import OnlineFeatures
from onevision.features.sequences import write_sources
from onevision.features.shared import open_project

PEOPLE = [f"u{k}" for k in range(280)]
LOG = random_log(31, events=4000, people=PEOPLE)
BY_USER = {user: [row for row in LOG if row["user_id"] == user] for user in PEOPLE}
MOMENTS = [  # at events' own microsecond, just after it, and between events
    BEGIN + timedelta(days=1),
    BEGIN + timedelta(days=3.125),
    BEGIN + timedelta(days=5.5) + MICROSECOND,
    BEGIN + timedelta(days=7.1),
]


def draws(count=1000, seed=32):
    """Random users, some of them strangers, at random moments; in the order of the moments."""
    rng = np.random.default_rng(seed)
    users = rng.choice([*PEOPLE, "stranger", "other stranger"], count)
    return sorted(
        zip(users.tolist(), (MOMENTS[k] for k in rng.integers(len(MOMENTS), size=count)), strict=True),
        key=lambda draw: draw[1],
    )


ASKED = draws()
WANTED = [expected(BY_USER.get(user, []), user, time, CONFIG) for user, time in ASKED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Feast folder with the sources of the log."""
    path = tmp_path_factory.mktemp("parity")
    snapshot, _ = write_log(path, LOG, [], people=PEOPLE)
    repository.write_repository(path / "feature_repo", CONFIG)
    write_sources(snapshot, path / "feature_repo", CONFIG)
    return path / "feature_repo"


def online_rows(store):
    """The rows of all draws: the store is materialised to each moment in turn, and then read."""
    rows = []
    for moment in MOMENTS:
        repository.materialize(store, moment)
        online = OnlineFeatures(store, as_of=moment)
        rows.extend(asdict(online.sequences(user)) for user, time in ASKED if time == moment)
    return rows


def assert_equal(rows):
    wrong = [k for k, (row, wanted) in enumerate(zip(rows, WANTED, strict=True)) if row != wanted]
    assert not wrong, f"{len(wrong)} of {len(WANTED)} differ, first {ASKED[wrong[0]]}: {rows[wrong[0]]}"


def test_offline_rows(folder, tmp_path):
    store = repository.open_store(folder, tmp_path)
    queries = [{"query_id": f"{k:04d}", "user_id": u, "ts": t, "split": "test"} for k, (u, t) in enumerate(ASKED)]
    rows = historical_rows(store, pa.Table.from_pylist(queries, schema=QUERIES)).select(SCHEMA.names[1:])
    assert_equal(rows.to_pylist())


def test_online_rows_of_sqlite(folder, tmp_path):
    assert_equal(online_rows(repository.open_store(folder, tmp_path)))


def test_online_rows_of_redis(folder, production):
    store = open_project("parity", make_tables=True)
    repository.apply_definitions(store, folder)
    assert_equal(online_rows(store))


def test_the_draws_hold_what_could_go_wrong():
    """Lists that expired, lists cut at their length, events at the very moment: each would show an error as unequal."""
    forever = CONFIG.model_copy(update={s.ttl: 9999 for s in SEQUENCES})
    longer = CONFIG.model_copy(update={s.length: 999 for s in SEQUENCES})
    found = Counter()
    for (user, time), wanted in zip(ASKED, WANTED, strict=True):
        rows = BY_USER.get(user, [])
        found["alive"] += any(wanted[s.name] for s in SEQUENCES)
        found["expired"] += expected(rows, user, time, forever) != wanted
        found["cut"] += expected(rows, user, time, longer) != wanted
        found["at the moment"] += expected(rows, user, time + MICROSECOND, CONFIG) != wanted
    assert found["alive"] > 500
    assert min(found["expired"], found["cut"], found["at the moment"]) > 50, found
