"""Night after night: a full training on the first day, then the nightly refresh on every day after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onevision.artifacts import open_artifact, read_json, write_json
from onevision.data.store import read_pointer
from onevision.errors import OneVisionError
from onevision.recipe import load_recipe
from onevision.rehearsal import faults
from onevision.rehearsal.attempts import Attempt, Watch, attempt
from onevision.rehearsal.page import rehearsal_report
from onevision.rehearsal.shop import RehearsedShop
from onevision.report import StageReport
from onevision.runner import write_page
from onevision.semantic_ids.lookup import diff
from onevision.stages import STAGES

_QUALITY = {"champion": "champion/hr@10", "challenger": "generator_pruned/hr@10", "dense": "dense/hr@10"}
STAGES_OF_A_NIGHT = ("open-champion", *(name for name in STAGES if name not in ("align", "train-vrq")), "embed-shard")
_INTERVAL = "generator_pruned_minus_champion/hr@10"


@dataclass(frozen=True)
class NightResult:
    """What one night did.

    Attributes:
        day: date of the snapshot; fault: what went wrong on purpose, "" for nothing.
        attempts: every run of the night, in order; expected: whether they ended as they should.
        served_before, served_after: identities of the bundles.
        items: of the bundle that is served after it; moved: items of the first champion with another semantic ID now.
        hr10: HR@10 of champion, challenger and dense neighbours on the night's searches; empty where none was measured.
        difference: of challenger and champion: mean, low, high; None as above.
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
    hr10: dict[str, float]
    difference: list[float] | None

    @property
    def outcome(self) -> str:
        """How the last attempt ended."""
        return self.attempts[-1].outcome

    @property
    def cpu_seconds(self) -> float:
        """Of all attempts."""
        return sum(one.cpu_seconds for one in self.attempts)


def plan(nights: int, with_faults: bool) -> list[str]:
    """Fault of every night; "" is a quiet one."""
    return [faults.FAULTS[n % len(faults.FAULTS)] if with_faults else "" for n in range(nights)]


def simulate_nights(
    *,
    out: Path,
    recipe: str,
    overrides: Sequence[str],
    nights: int,
    source: str,
    with_faults: bool,
    show: Callable[[str], None],
) -> StageReport:
    """Rehearse some nights and write `nights.json` and the report's page into `out`.

    Args:
        source: `synthetic`, or a snapshot whose last days are the nights.

    Raises:
        OneVisionError: the full training did not publish.
    """
    rehearsal = Rehearsal(out.resolve(), recipe, list(overrides), RehearsedShop(out, source, nights, recipe, overrides))
    rehearsal.train(show)
    results = []
    for number, fault in enumerate(plan(nights, with_faults), start=1):
        result = rehearsal.night(number, fault)
        results.append(result)
        report = rehearsal_report(results)  # after every night, so that an interrupted rehearsal has one too
        write_json(out / "nights.json", [asdict(one) for one in results])
        report.save(out)
        write_page(report, [out / "report.html"])
        ends = ", then ".join(one.outcome for one in result.attempts)
        show(f"night {number} ({result.day}{', ' + fault if fault else ''}): {ends}; {result.cpu_seconds:.0f} CPU s")
    return report


def _began(stage: str, said: str) -> bool:
    return f"{stage}: started" in said


def _some_time_after(stage: str, seconds: float) -> Watch:
    """Kills so many seconds after a stage has begun."""
    began: list[float] = []

    def kill(said: str) -> bool:
        if not began and _began(stage, said):
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] >= seconds

    return kill


class Rehearsal:
    """A store, its runs and the days of a shop."""

    def __init__(self, out: Path, recipe: str, overrides: list[str], shop: RehearsedShop) -> None:
        self.out, self.recipe, self.overrides, self.shop = out, recipe, overrides, shop
        self.store, self.runs = out / "store", out / "runs"
        self.seed = load_recipe(recipe, overrides).seed

    def train(self, show: Callable[[str], None]) -> None:
        """The first champion, unless the store has one."""
        if read_pointer(self.store)[0] is None:
            show("full training on the first day")
            places = ["--snapshot", str(self.shop.day(0)), "--bundle-store", str(self.store), "--runs", str(self.runs)]
            arguments = ["run", "full-training", "--recipe", self.recipe, *places, *self.overrides]
            attempt(arguments, self.out / "logs" / "full-training.log")
        if read_pointer(self.store)[0] is None:
            raise OneVisionError(f"the full training published nothing; read {self.out / 'logs/full-training.log'}")
        self.first = self._served()

    def night(self, number: int, fault: str) -> NightResult:
        """One night with its fault, tried again where a person would."""
        before, rng = self._served(), np.random.default_rng([self.seed, number])
        day = self._spoilt(number, fault)
        attempts = [self._attempt(number, 1, day, self._harm(fault, rng))]
        if fault == faults.SABOTAGED:
            faults.sabotage(self._newest("align-preferences"), self.seed)
        if fault == faults.STORE_FAILS and (self.store / "bundles-away").exists():
            faults.mend_store(self.store)
        if len(faults.EXPECTED[fault]) > 1:
            attempts.append(self._attempt(number, 2, day, None))
        wanted = faults.EXPECTED[fault]
        after = self._served()
        codes = [open_artifact(self._bundle(identity) / "semantic_ids") for identity in (self.first, after)]
        metrics = next(filter(None, (self._metrics(one.run) for one in reversed(attempts))), {})
        return NightResult(
            night=number,
            day=f"{self.shop.date(number):%Y-%m-%d}",
            fault=fault,
            attempts=attempts,
            expected=all(one.outcome in some for one, some in zip(attempts, wanted, strict=True)),
            served_before=before,
            served_after=after,
            items=codes[1].counts["items_assigned"],
            moved=diff(*codes).counts["moved"],
            hr10={name: metrics[key] for name, key in _QUALITY.items() if key in metrics},
            difference=[metrics[_INTERVAL + end] for end in ("", "/low", "/high")] if _INTERVAL in metrics else None,
        )

    def _attempt(self, number: int, turn: int, day: Path, watch: Watch | None) -> Attempt:
        places = ["--champion", str(self.store), "--snapshot", str(day), "--runs", str(self.runs)]
        arguments = ["run", "nightly-refresh", "--recipe", self.recipe, *places, *self.overrides]
        return attempt(arguments, self.out / "logs" / f"night-{number:02d}-{turn}.log", watch)

    def _spoilt(self, number: int, fault: str) -> Path:
        day, out = self.shop.day(number), self.out / f"day-{number:02d}-spoilt"
        if fault == faults.CORRUPT:
            return faults.corrupt(day, out, self.seed)
        if fault == faults.EMPTY:
            return faults.empty(day, out)
        if fault == faults.FLOOD:
            return faults.flood(day, out, self.seed)
        return day

    def _harm(self, fault: str, rng: np.random.Generator) -> Watch | None:
        """What is done while the night runs."""
        if fault == faults.KILLED:
            return _some_time_after(str(rng.choice(STAGES_OF_A_NIGHT)), float(rng.uniform(0, 3)))
        if fault == faults.SABOTAGED:
            return lambda said: _began("calibrate-pruning", said)
        if fault == faults.STORE_FAILS:

            def break_it(said: str) -> bool:
                if (self.store / "bundles").is_dir() and _began("evaluate", said):
                    faults.break_store(self.store)
                return False

            return break_it
        return None

    def _newest(self, stage: str) -> Path:
        """The artifact of a stage that was finished last, in the stage cache."""
        entries = (self.runs / ".stages" / stage).glob("[!.]*/manifest.json")
        return max(entries, key=lambda manifest: manifest.stat().st_mtime_ns).parent

    def _metrics(self, run: str) -> dict[str, float]:
        path = self.runs / run / "evaluation" / "metrics.json"
        metrics: dict[str, float] = read_json(path) if run and path.exists() else {}
        return metrics

    def _served(self) -> str:
        pointer, _ = read_pointer(self.store)
        return str(pointer["bundle"]) if pointer else ""

    def _bundle(self, identity: str) -> Path:
        return self.store / "bundles" / identity
