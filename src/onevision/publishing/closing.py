"""The end of a night, whatever became of it: what happened, what to do next, and the store handed back."""

from __future__ import annotations

from dataclasses import dataclass, field

from onevision.data.store import read_pointer
from onevision.errors import OneVisionError
from onevision.publishing.nights import DECIDED, Night
from onevision.report import ReportTable, StageReport

NEXT = {
    "promoted": "Nothing. To take it back: onevision rollback --store {store}",
    "kept": "Nothing tonight; the gate in the report says what was lacking. After three such nights train in full.",
    "stopped": "Put the day right (the reasons name table and rule), then run the same night again.",
    "failed": "Run the same night again: what is finished is not done twice. A second failure is a bug: read the log.",
    "nothing to do": "Nothing.",
    "not begun": "Read the log of open-champion: the day is unreadable, there is no champion, or another night is at "
    "work. Then run the same night again.",
}
"""Outcome -> what the person in charge does next."""


@dataclass(frozen=True)
class Closing:
    """How a night ended.

    Attributes:
        outcome: a key of `NEXT`.
        why: sentences: the failed rules of the gate, or what stopped it.
        champion: identity of the bundle that is served after it, "" if the store cannot be read.
    """

    night: str
    outcome: str
    next_step: str
    why: list[str] = field(default_factory=list)
    champion: str = ""

    @classmethod
    def unreadable(cls, day: str, reason: str) -> Closing:
        """The end of a night that has no name, because its day could not be read."""
        return cls(day, "not begun", NEXT["not begun"], [reason])

    def lines(self) -> list[str]:
        """What the night says at its end."""
        serving = f", serving {self.champion}" if self.champion else ""
        return [f"night {self.night}: {self.outcome}{serving}", *self.why, f"next: {self.next_step}"]

    def report(self) -> StageReport:
        """The same as a page."""
        rows = [["outcome", self.outcome], ["serving", self.champion], ["next", self.next_step]]
        table = ReportTable(f"Night {self.night}", ["", ""], rows, " ".join(self.why))
        return StageReport("close-night", tables=[table], warnings=list(self.why))


def close_night(night: Night, succeeded: bool) -> Closing:
    """Record how the night ended, hand the store back, and say what to do next.

    Args:
        succeeded: whether every task of the pipeline did.
    """
    try:
        outcome, why = _outcome(night, succeeded)
        night.give_back_lease()
        champion = _champion(night.store)
    except OneVisionError as error:
        return Closing(night.key, "failed", NEXT["failed"], [f"the store did not answer: {error}"])
    return Closing(night.key, outcome, NEXT[outcome].format(store=night.store), why, champion)


def _outcome(night: Night, succeeded: bool) -> tuple[str, list[str]]:
    entry = night.entry()
    if entry is None or entry["run"] != night.run:
        if succeeded:
            decided = f": {entry['outcome']}" if entry else ""
            return "nothing to do", [f"the champion needs nothing of this day{decided}"]
        taken = [f"run {entry['run']} took this night over; it says: {entry['outcome']}"] if entry else []
        return "not begun", taken
    if entry["outcome"] == "begun":
        night.record("failed", ["a task of the pipeline failed or was killed"])
        entry = night.entry() or entry
    if not succeeded and entry["outcome"] in DECIDED:
        return "failed", ["the decision was carried out, but a task failed after it"]
    return entry["outcome"], list(entry.get("why", []))


def _champion(store: str) -> str:
    pointer, _ = read_pointer(store)
    return str(pointer["bundle"]) if pointer else ""
