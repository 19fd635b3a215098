"""The nights of a bundle store: `nights/<date>-<recipe>.json` tells how each one went.

A night is known by the date of its snapshot and its recipe. It is begun once at a time, under the lease of the store,
by one run; a night that was decided stays decided, whoever runs it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from onevision.artifacts import MANIFEST
from onevision.data.lease import Lease, LeaseLost, hand_back
from onevision.data.snapshot import as_utc
from onevision.data.store import join, open_store
from onevision.errors import ArtifactError, ContractError

NIGHTS = "nights"
Outcome = Literal["begun", "promoted", "kept", "stopped", "failed"]
DECIDED = ("promoted", "kept")
"""Outcomes that another run of the same night leaves alone; the others may be tried again."""


@dataclass(frozen=True)
class Day:
    """What a snapshot's manifest says of its day; `as_of` is UTC."""

    snapshot_id: str
    as_of: datetime


@dataclass(frozen=True)
class Night:
    """One run of a night.

    Attributes:
        store: bundle store; key: `<date of the snapshot>-<hash of the recipe>`; run: id of the run.
    """

    store: str
    key: str
    run: str

    @classmethod
    def of(cls, store: str, day: Day, recipe_hash: str, run: str) -> Night:
        """The night of a day and a recipe."""
        return cls(store, f"{day.as_of:%Y-%m-%d}-{recipe_hash[:8]}", run)

    @classmethod
    def parse(cls, text: str) -> Night:
        """What `str` of a night wrote; `ArtifactError` if it is none."""
        parts = text.rsplit("#", 2)
        if len(parts) != 3 or not all(parts):
            raise ArtifactError(f"night {text!r}: it is written STORE#DATE-RECIPE#RUN, as open-champion prints it")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.store}#{self.key}#{self.run}"

    @property
    def place(self) -> str:
        """Where its entry is."""
        return join(self.store, NIGHTS, f"{self.key}.json")

    def entry(self) -> dict[str, Any] | None:
        """What is recorded of this night, by whichever run; None before it was begun."""
        return self._read()[0]

    def begin(self, champion: str, day: Day) -> None:
        """Record that this run begins the night from that champion; `LeaseLost` if it was decided meanwhile."""
        decided, version = self._read()
        if decided is not None and decided["outcome"] in DECIDED:
            raise LeaseLost(f"{self.place}: run {decided['run']} has {decided['outcome']} it meanwhile")
        entry = {
            "night": self.key,
            "snapshot_id": day.snapshot_id,
            "as_of": day.as_of.isoformat(),
            "run": self.run,
            "began": _now(),
            "outcome": "begun",
            "champion": champion,
        }
        self._write(entry, version)

    def record(self, outcome: Outcome, why: Sequence[str] = (), bundle: str | None = None) -> None:
        """Record how the night went; nothing if another run has begun it since."""
        entry, version = self._read()
        if entry is not None and entry["run"] == self.run:
            made = {"bundle": bundle} if bundle else {}
            self._write(entry | {"outcome": outcome, "ended": _now(), "why": list(why)} | made, version)

    def take_lease(self, minutes: float) -> None:
        """Hold the store from now on, for this night.

        Raises:
            LockHeld: another night holds it.
            LeaseLost: a newer run of this night took over.
        """
        entry = self.entry()
        if entry is not None and entry["outcome"] == "begun" and entry["run"] != self.run:
            raise LeaseLost(f"{self.place}: run {entry['run']} took this night over; run {self.run} stops")
        self._lease(minutes)

    def take_over(self, minutes: float) -> None:
        """Hold the store from now on, also where a run of this night died that held it; `LockHeld` as above."""
        self._lease(minutes)

    def give_back_lease(self) -> None:
        """Hand the store back, if this run holds it."""
        hand_back(self.store, self._holder, self.run)

    @property
    def _holder(self) -> str:
        return f"nightly refresh {self.key}"

    def _lease(self, minutes: float) -> None:
        Lease(self.store, self._holder, 60 * minutes, self.run)

    def _read(self) -> tuple[dict[str, Any] | None, int]:
        data, version = open_store(self.store).read(f"{NIGHTS}/{self.key}.json")
        if data is None:
            return None, version
        try:
            entry = json.loads(data)
            _ = entry["run"], entry["outcome"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{self.place}: not the entry of a night ({error!r}); delete it") from None
        return entry, version

    def _write(self, entry: dict[str, Any], version: int) -> None:
        data = json.dumps(entry, indent=2) + "\n"
        open_store(self.store).write_if_generation(f"{NIGHTS}/{self.key}.json", data.encode(), version)


def read_day(snapshot: str) -> Day:
    """Date and id of a snapshot, from its manifest alone.

    Raises:
        ArtifactError: no manifest there (half-written, or no snapshot).
        ContractError: the manifest names no date.
    """
    data, _ = open_store(snapshot).read(MANIFEST)
    if data is None:
        raise ArtifactError(f"{snapshot}: no {MANIFEST} there; it is no snapshot, or it was not written to its end")
    try:
        extra = json.loads(data)["extra"]
        return Day(str(extra["snapshot_id"]), as_utc(datetime.fromisoformat(extra["as_of"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{join(snapshot, MANIFEST)}: names no snapshot_id and as_of ({error!r})") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
