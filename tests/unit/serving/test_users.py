"""A user store that is slow, broken or hanging makes answers impersonal, never late, and says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from onevision.errors import SettingError
from onevision.features.definitions import UserSequences
from onevision.features.shared import SharedFeatures
from onevision.serving.users import UserLookup, open_users

KNOWN = UserSequences(recent_clicked=["i1"])


class Store:
    as_of = datetime(2026, 1, 1, tzinfo=UTC)

    def __init__(self, read: Callable[[], UserSequences]) -> None:
        self.read = read
        self.asked_at: list[datetime | None] = []

    def sequences(self, user_id: str, at: datetime | None = None) -> UserSequences:
        self.asked_at.append(at)
        return self.read()


def lookup(store: Store | None, outcomes: Counter[str], **settings: Any) -> UserLookup:
    settings = {"timeout": 5.0, "threads": 2, "at_request": False} | settings
    return UserLookup(store, count=lambda outcome: outcomes.update([outcome]), **settings)


def broken() -> UserSequences:
    raise OSError("no such table")


@pytest.mark.parametrize(
    ("read", "outcome", "note"),
    [(lambda: KNOWN, "known", None), (UserSequences, "unknown", "do not know"), (broken, "failed", "failed")],
)
def test_every_outcome_is_counted_and_a_cold_user_is_told(
    read: Callable[[], UserSequences], outcome: str, note: str | None
) -> None:
    outcomes: Counter[str] = Counter()
    found, notes = asyncio.run(lookup(Store(read), outcomes).find("ann"))
    assert found == (KNOWN if outcome == "known" else UserSequences())
    assert outcomes == {outcome: 1}
    assert (notes == []) if note is None else (note in notes[0] and "cold" in notes[0])


def test_nobody_is_not_looked_up() -> None:
    outcomes: Counter[str] = Counter()
    store = Store(lambda: KNOWN)
    assert asyncio.run(lookup(store, outcomes).find(None)) == (UserSequences(), [])
    assert (store.asked_at, outcomes) == ([], {})


def test_without_a_store_everybody_is_cold() -> None:
    outcomes: Counter[str] = Counter()
    found, notes = asyncio.run(lookup(None, outcomes).find("ann"))
    assert found == UserSequences()
    assert "no features" in notes[0]
    assert outcomes == {"off": 1}


def test_a_store_that_hangs_costs_the_time_limit_and_then_nothing() -> None:
    release, outcomes = threading.Event(), Counter()
    hangs = True

    def read() -> UserSequences:
        if hangs:
            release.wait(20)
        return KNOWN

    async def scenario() -> None:
        nonlocal hangs
        users = lookup(Store(read), outcomes, timeout=0.05)
        await asyncio.gather(*(users.find("ann") for _ in range(2)))
        started = time.perf_counter()
        _, notes = await users.find("ann")
        assert time.perf_counter() - started < 0.04
        assert "does not answer" in notes[0]
        hangs = False
        release.set()
        await asyncio.sleep(0.1)
        assert (await users.find("ann"))[0] == KNOWN
        users.stop()

    asyncio.run(scenario())
    assert outcomes == {"slow": 2, "busy": 1, "known": 1}


def test_a_burst_of_lookups_waits_for_free_threads() -> None:
    outcomes: Counter[str] = Counter()

    def read() -> UserSequences:
        time.sleep(0.004)
        return KNOWN

    async def scenario() -> None:
        users = lookup(Store(read), outcomes, threads=4)
        await asyncio.gather(*(users.find("ann") for _ in range(24)))
        users.stop()

    asyncio.run(scenario())
    assert outcomes == {"known": 24}


def test_a_burst_on_a_store_that_hangs_waits_no_longer_than_the_time_limit() -> None:
    release, outcomes = threading.Event(), Counter()
    begun = []

    def read() -> UserSequences:
        begun.append(True)
        release.wait(20)
        return KNOWN

    async def scenario() -> None:
        users = lookup(Store(read), outcomes, timeout=0.2)
        started = time.perf_counter()
        await asyncio.gather(*(users.find("ann") for _ in range(24)))
        assert time.perf_counter() - started < 1.0, "one after the other they would take 2.4 seconds"
        release.set()
        await asyncio.sleep(0.1)
        users.stop()

    asyncio.run(scenario())
    assert outcomes == {"slow": 24}
    assert len(begun) == 2, "who has stopped waiting is not looked up later"


def test_a_thread_that_hangs_leaves_the_others_to_everybody() -> None:
    release, outcomes = threading.Event(), Counter()
    first = iter([True])

    def read() -> UserSequences:
        if next(first, False):
            release.wait(20)
        return KNOWN

    async def scenario() -> None:
        users = lookup(Store(read), outcomes, timeout=0.2)
        await users.find("ann")
        for _ in range(3):
            await users.find("ann")
        release.set()
        users.stop()

    asyncio.run(scenario())
    assert outcomes == {"slow": 1, "known": 3}


def test_life_is_judged_at_the_stores_date_or_at_the_request() -> None:
    store = Store(lambda: KNOWN)
    asyncio.run(lookup(store, Counter()).find("ann"))
    asyncio.run(lookup(store, Counter(), at_request=True).find("ann"))
    assert store.asked_at[0] is None
    assert store.asked_at[1] is not None
    assert abs((datetime.now(UTC) - store.asked_at[1]).total_seconds()) < 60


def test_the_environment_chooses_between_the_shared_store_and_the_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURE_STORE", raising=False)
    assert open_users(None) is None
    monkeypatch.setenv("FEATURE_STORE", "production")
    with pytest.raises(SettingError, match="leave --features out"):
        open_users("runs/latest/features")
    monkeypatch.setattr(SharedFeatures, "__init__", lambda self: None)
    assert isinstance(open_users(None), SharedFeatures)
