"""One holder at a time; one that died is followed, and one that slept too long is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.gcs_emulator import GcsEmulator

from onevision.data import lease as lease_module
from onevision.data.lease import Lease, LeaseLost, LockHeld, lease
from onevision.data.store import StoreError, open_store


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        monkeypatch.setattr(lease_module, "now", lambda: self.time)

    def wait(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(params=["local", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    with GcsEmulator("shop"):
        yield str(tmp_path / "store") if request.param == "local" else "gs://shop/nightly"


def test_the_second_is_told_who_holds_the_lock_and_until_when(store: str, clock: Clock) -> None:
    with lease(store, "nightly", 60):
        with pytest.raises(LockHeld, match=r"lock\.json: held by nightly .* until 2026-01-01 00:01:00 UTC"):
            Lease(store, "other", 60)
        clock.wait(59)
        with pytest.raises(LockHeld):
            Lease(store, "other", 60)
    with lease(store, "other", 60):
        pass


def test_an_error_in_the_block_hands_the_lock_back(store: str, clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), lease(store, "nightly", 60):
        raise ZeroDivisionError
    Lease(store, "other", 60)


def test_a_renewed_lease_lasts(store: str, clock: Clock) -> None:
    held = Lease(store, "nightly", 60)
    for _ in range(3):
        clock.wait(50)
        held.renew()
        with pytest.raises(LockHeld):
            Lease(store, "other", 60)


def test_a_dead_holder_is_followed_and_fenced_off_if_it_wakes(store: str, clock: Clock) -> None:
    asleep = Lease(store, "nightly", 60)
    clock.wait(61)
    follower = Lease(store, "other", 60)
    assert follower.generation > asleep.generation
    with pytest.raises(LeaseLost, match=r"nightly .* lost its lease"):
        asleep.renew()
    asleep.release()
    with pytest.raises(LockHeld, match="held by other"):
        Lease(store, "third", 60)
    follower.renew()


def test_a_late_holder_that_nobody_followed_goes_on(store: str, clock: Clock) -> None:
    held = Lease(store, "nightly", 60)
    clock.wait(300)
    held.renew()
    with pytest.raises(LockHeld):
        Lease(store, "other", 60)


@pytest.mark.parametrize("expired", [False, True], ids=["free", "expired"])
def test_of_many_who_try_at_once_exactly_one_gets_it(store: str, clock: Clock, expired: bool) -> None:
    if expired:
        Lease(store, "dead", 60)
        clock.wait(61)
    start, got, refused = threading.Barrier(8), [], []

    def attempt(number: int) -> None:
        start.wait()
        try:
            got.append(Lease(store, str(number), 60))
        except LockHeld:
            refused.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].renew()


def test_what_is_no_lock_is_named(store: str) -> None:
    open_store(store).write_if_generation("lock.json", b"{}", 0)
    with pytest.raises(StoreError, match=r"lock\.json: not a lock"):
        Lease(store, "nightly", 60)
