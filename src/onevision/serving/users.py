"""Who is asking: a user's sequences within a time limit, or none.

A store that is slow or broken makes an answer impersonal, never late: the user counts as cold, the answer says so, and
a lookup that hangs keeps its thread. Lookups wait for a free thread within the same limit; while every thread hangs,
nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from onevision.data.store import cached_download, is_remote
from onevision.errors import SettingError
from onevision.features.definitions import UserSequences
from onevision.features.online import OnlineFeatures
from onevision.features.shared import SharedFeatures
from onevision.features.targets import PRODUCTION, VARIABLE, chosen_target

log = logging.getLogger(__name__)


class Sequences(Protocol):
    """A user store: `OnlineFeatures` of an artifact, or `SharedFeatures`."""

    @property
    def as_of(self) -> datetime:
        """The date of its sequences; that of a shared store moves on."""

    def sequences(self, user_id: str, at: datetime | None = None) -> UserSequences:
        """A user's sequences, empty for a stranger."""


def open_users(features: str | None) -> Sequences | None:
    """The user store that the environment and the command line name, after a first read (the slow one).

    Args:
        features: a `features` artifact, a folder or gs://bucket/prefix, which carries a store of its own.

    Returns:
        the shared store where FEATURE_STORE is `production`, the artifact's, or None: everybody is a cold user.

    Raises:
        SettingError: both are named.
    """
    if chosen_target() == PRODUCTION:
        if features:
            raise SettingError(f"{VARIABLE} is {PRODUCTION}: servers read the shared store, so leave --features out")
        return SharedFeatures()
    if not features:
        return None
    users = OnlineFeatures.open(cached_download(features) if is_remote(features) else Path(features))
    users.sequences("")
    return users


class UserLookup:
    """Reads sequences in threads of its own.

    Args:
        store: None makes everybody a cold user.
        timeout: seconds, those included in which all threads are in use.
        threads: lookups at a time; while all of them are over the limit, users are cold at once.
        at_request: judge a sequence's life at the time of the request, not at the store's date.
        count: told how each lookup ended: known, unknown, slow, busy, failed or off.
    """

    def __init__(
        self,
        store: Sequences | None,
        *,
        timeout: float,
        threads: int,
        at_request: bool,
        count: Callable[[str], None],
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._at_request = at_request
        self._count = count
        self._threads = threads
        self._overdue: set[Future[UserSequences]] = set()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lookup")

    async def find(self, user_id: str | None) -> tuple[UserSequences, list[str]]:
        """The user's sequences, and a note if they are served as a cold user."""
        if user_id is None:
            return UserSequences(), []
        sequences, outcome, why = await self._find(user_id)
        self._count(outcome)
        return sequences, [f"served as a cold user: {why}"] if why else []

    async def _find(self, user_id: str) -> tuple[UserSequences, str, str]:
        if self._store is None:
            return UserSequences(), "off", "no features were given"
        self._overdue = {reading for reading in self._overdue if not reading.done()}
        if len(self._overdue) == self._threads:
            return UserSequences(), "busy", "the user store does not answer"
        reading = self._pool.submit(self._read, self._store, user_id)
        try:
            sequences = await asyncio.wait_for(asyncio.wrap_future(reading), self._timeout)
        except TimeoutError:
            return UserSequences(), "slow", "the user store did not answer in time"
        except Exception:
            log.exception("a user lookup failed")
            return UserSequences(), "failed", "the user store failed"
        finally:
            reading.cancel()
            if reading.running():  # which cannot be cancelled
                self._overdue.add(reading)
        if sequences == UserSequences():
            return sequences, "unknown", "the features do not know them"
        return sequences, "known", ""

    def _read(self, store: Sequences, user_id: str) -> UserSequences:
        return store.sequences(user_id, datetime.now(UTC) if self._at_request else None)

    def stop(self) -> None:
        """Let the threads go, without waiting for a lookup that hangs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
