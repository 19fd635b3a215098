"""Who was champion, and from when: a part of the pointer, so that it changes in the same step as the champion does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from onevision.data.store import read_pointer
from onevision.errors import ArtifactError

How = Literal["promoted", "rolled back"]
HISTORY = "history"
_LONGEST = 1000
"""Entries; the oldest go first, since every server reads the pointer."""


@dataclass(frozen=True)
class Reign:
    """A time as champion.

    Attributes:
        bundle: identity.
        since: when the pointer began to name it (UTC).
        until: when the next one took over, None if it is the champion.
        how: what put it there.
    """

    bundle: str
    since: datetime
    until: datetime | None
    how: How


def extended(pointer: dict[str, Any] | None, bundle: str, how: How) -> list[dict[str, str]]:
    """The history in a pointer, and one more champion from now on."""
    entry = {"bundle": bundle, "since": now().isoformat(timespec="seconds"), "how": how}
    return [*(pointer or {}).get(HISTORY, []), entry][-_LONGEST:]


def reigns(pointer: dict[str, Any] | None, place: str) -> list[Reign]:
    """The history in a pointer, oldest first; `place` is named if it is damaged (`ArtifactError`)."""
    entries = (pointer or {}).get(HISTORY, [])
    try:
        starts = [datetime.fromisoformat(entry["since"]) for entry in entries]
        ends: list[datetime | None] = [*starts[1:], None]
        return [
            Reign(entry["bundle"], since, until, entry["how"])
            for entry, since, until in zip(entries, starts, ends, strict=False)  # none of none
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{place}: champion.json has a damaged {HISTORY!r} ({error!r})") from None


def read_history(store: str) -> list[Reign]:
    """Every champion of a store, oldest first."""
    return reigns(read_pointer(store)[0], store)


def now() -> datetime:
    """The time of day (UTC)."""
    return datetime.now(UTC)
