"""What the nights of a rehearsal did, as it is kept in `nights.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onevision.artifacts import read_json, write_json
from onevision.errors import OneVisionError
from onevision.rehearsal.attempts import Attempt
from onevision.rehearsal.faults import SABOTAGED

NIGHTS = "nights.json"


@dataclass(frozen=True)
class NightResult:
    """What one night did.

    Attributes:
        day: date of the snapshot; fault: what went wrong on purpose, "" for nothing.
        attempts: every run of the night, in order; expected: whether they ended as they should.
        served_before, served_after: identities of the bundles.
        items: of the bundle that is served after it; moved: items of the first champion with another semantic ID now.
        loadable: whether the bundle served after it can be loaded, every checksum compared.
        hr10: HR@10 of champion, challenger and dense neighbours on the night's searches; empty where none was measured.
        difference: of challenger and champion: mean, low, high; None as above.
        events: what became of the log, see `counting.count_events`; empty where the day was refused.
    """

    night: int
    day: str
    fault: str
    attempts: list[Attempt]
    expected: bool
    served_before: str
    served_after: str
    items: int
    moved: int
    loadable: bool
    hr10: dict[str, float]
    difference: list[float] | None
    events: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """How the last attempt ended."""
        return self.attempts[-1].outcome

    @property
    def decided(self) -> bool:
        """Whether a challenger was judged."""
        return bool(self.hr10)

    @property
    def promoted(self) -> bool:
        """Whether its challenger is served."""
        return self.served_after != self.served_before

    @property
    def cpu_seconds(self) -> float:
        """Of all attempts."""
        return sum(one.cpu_seconds for one in self.attempts)


def totals(nights: Sequence[NightResult]) -> dict[str, int]:
    """Counts over all nights: what a rehearsal has to show."""
    judged = [n for n in nights if n.decided]
    honest = [n for n in judged if n.fault != SABOTAGED]
    sabotaged = [n for n in nights if n.fault == SABOTAGED]
    better = [n for n in honest if n.difference and n.difference[0] > 0]
    return {
        "nights": len(nights),
        "nights_with_a_fault": sum(bool(n.fault) for n in nights),
        "nights_not_as_expected": sum(not n.expected for n in nights),
        "runs_killed": sum(one.outcome == "killed" for n in nights for one in n.attempts),
        "items_moved": max((n.moved for n in nights), default=0),
        "nights_without_a_loadable_champion": sum(not n.loadable for n in nights),
        "events_lost": max((n.events.get("lost", 0) for n in nights), default=0),
        "events_doubled": max((n.events.get("doubled", 0) for n in nights), default=0),
        "sabotaged": len(sabotaged),
        "sabotaged_refused": sum(not n.promoted for n in sabotaged),
        "honest_judged": len(honest),
        "honest_promoted": sum(n.promoted for n in honest),
        "honest_with_a_gain": len(better),
        "honest_with_a_gain_promoted": sum(n.promoted for n in better),
        "bad_promotions": sum(n.promoted and _is_worse(n) for n in judged),
    }


def save_results(
    out: Path, settings: Mapping[str, Any], nights: Sequence[NightResult], more: Mapping[str, Any]
) -> None:
    """Write `nights.json`: settings, totals, what else was measured, and every night."""
    value = {"settings": dict(settings), "totals": totals(nights), **more, "nights": [asdict(one) for one in nights]}
    write_json(out / NIGHTS, value)


def load_results(out: Path, settings: Mapping[str, Any]) -> list[NightResult]:
    """The nights that an interrupted rehearsal has finished; none in a new folder.

    Raises:
        OneVisionError: the folder holds something else, or a rehearsal with other settings.
    """
    if not (out / NIGHTS).exists():
        if out.exists() and any(out.iterdir()):
            raise OneVisionError(f"{out}: is not empty and holds no rehearsal; name a new folder")
        return []
    found = read_json(out / NIGHTS)
    for name, value in settings.items():
        if found["settings"].get(name) != value:
            raise OneVisionError(
                f"{out}: its rehearsal has {name} {found['settings'].get(name)!r}, now it is {value!r}; "
                "go on with the same command, or name a new folder"
            )
    return [NightResult(**one | {"attempts": [Attempt(**a) for a in one["attempts"]]}) for one in found["nights"]]


def _is_worse(night: NightResult) -> bool:
    """Worse than the champion by more than chance, or sabotaged."""
    return night.fault == SABOTAGED or (night.difference is not None and night.difference[2] < 0)
