"""A lock with a lease on a store: one holder at a time, and a holder that died is followed when its lease runs out.

The lock is one object that is only ever replaced by who knows its generation: taken by generation 0 where it is absent,
renewed, handed back and taken over by the generation that was read. A holder that slept past its lease finds that its
generation is gone (fencing); what it publishes goes by generations too, so even unnoticed it cannot overwrite.

Work that goes on in several processes holds the lock under the id of its run: every one of them may take it, as may a
new run of the same holder, which goes on where a killed one stopped.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from onevision.data.store import PointerConflict, StoreError, join, open_store

LOCK = "lock.json"


class LockHeld(StoreError):  # noqa: N818 (it is no fault: somebody else is at work)
    """Somebody else holds the lock; the message says who and until when."""


class LeaseLost(StoreError):  # noqa: N818
    """The lease ran out and somebody else took the lock; stop working."""


class Lease:
    """The lock of a store, held; see `lease`. With the id of a `run`, other runs of the same holder are followed."""

    def __init__(self, store: str, holder: str, seconds: float, run: str | None = None) -> None:
        self.place = join(store, LOCK)
        self.holder = f"{holder} ({run or uuid.uuid4().hex[:8]})"
        self._store = open_store(store)
        self._length = timedelta(seconds=seconds)
        data, generation = self._store.read(LOCK)
        if data is not None:
            other, until = _parse(data, self.place)
            follows = run is not None and other is not None and other.startswith(f"{holder} (")
            if other is not None and until > now() and not follows:
                raise LockHeld(f"{self.place}: held by {other} until {until:%Y-%m-%d %H:%M:%S} UTC; try again then")
        try:
            self.generation = self._write(self.holder, generation)
        except PointerConflict as conflict:
            raise LockHeld(f"{conflict}; it took the lock first") from None

    def renew(self) -> None:
        """Hold the lock for another length of the lease from now; `LeaseLost` if somebody else has it."""
        try:
            self.generation = self._write(self.holder, self.generation)
        except PointerConflict as conflict:
            raise LeaseLost(f"{conflict}; {self.holder} lost its lease") from None

    def release(self) -> None:
        """Hand the lock back; nothing happens if somebody else has it by now."""
        try:
            self.generation = self._write(None, self.generation)
        except PointerConflict:
            return

    def _write(self, holder: str | None, generation: int) -> int:
        until = (now() + self._length).isoformat()
        data = json.dumps({"holder": holder, "until": until}, indent=2) + "\n"
        return self._store.write_if_generation(LOCK, data.encode(), generation)


def hand_back(store: str, holder: str, run: str) -> None:
    """Hand back the lock that a run took, from whichever process; nothing happens if somebody else has it."""
    data, generation = open_store(store).read(LOCK)
    if data is None or _parse(data, join(store, LOCK))[0] != f"{holder} ({run})":
        return
    with suppress(PointerConflict):
        free = json.dumps({"holder": None, "until": now().isoformat()}, indent=2) + "\n"
        open_store(store).write_if_generation(LOCK, free.encode(), generation)


@contextmanager
def lease(store: str, holder: str, seconds: float) -> Iterator[Lease]:
    """Hold the lock of a store for the length of a block.

    Args:
        holder: who this is, for the message that others get.
        seconds: until others may take the lock, unless it is renewed.

    Raises:
        LockHeld: somebody else holds it.
    """
    held = Lease(store, holder, seconds)
    try:
        yield held
    finally:
        held.release()


def now() -> datetime:
    """The time of day (UTC)."""
    return datetime.now(UTC)


def _parse(data: bytes, place: str) -> tuple[str | None, datetime]:
    try:
        value = json.loads(data)
        return value["holder"], datetime.fromisoformat(value["until"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place}: not a lock ({error!r}); delete it if nobody is at work") from None
