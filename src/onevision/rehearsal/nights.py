"""Night after night: a full training on the first day, then the nightly refresh on every day after it.

A rehearsal that was broken off goes on with the night that it was at: the store is put back as that night found it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from onevision.artifacts import MANIFEST, open_artifact, read_json, require_local
from onevision.data.store import read_pointer
from onevision.errors import OneVisionError
from onevision.recipe import load_recipe
from onevision.rehearsal import faults
from onevision.rehearsal.attempts import Attempt, Watch, attempt, began, some_time_after
from onevision.rehearsal.baskets import ask_baskets, compared_baskets
from onevision.rehearsal.counting import count_events
from onevision.rehearsal.frozen import ask_frozen, compared
from onevision.rehearsal.page import rehearsal_report
from onevision.rehearsal.results import NightResult, load_results, save_results
from onevision.rehearsal.shop import RehearsedShop
from onevision.report import StageReport
from onevision.runner import write_page
from onevision.semantic_ids.lookup import diff

_QUALITY = {"champion": "champion/hr@10", "challenger": "generator_pruned/hr@10", "dense": "dense/hr@10"}
_INTERVAL = "generator_pruned_minus_champion/hr@10"
_MADE = {
    "snapshot": "validate/clean_snapshot",
    "pairs": "pair/pairs",
    "encoder": "merge-embeddings/merged_encoder",
    "features": "materialize-features/features",
    "semantic_ids": "assign-ids/semantic_ids",
    "evaluation": "evaluate/evaluation",
}
"""Artifact -> where a task of the pipeline leaves it."""


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
    data: Path | None = None,
) -> StageReport:
    """Rehearse some nights and write `nights.json` and the report's page into `out`.

    Args:
        out: a new folder, or that of the same rehearsal, which then goes on.
        source: `synthetic`, `grocery`, or a snapshot whose last days are the nights.
        data: folder of the grocery data.

    Raises:
        OneVisionError: the full training did not publish, or `out` holds something else.
    """
    settings = {"recipe": recipe, "overrides": list(overrides), "source": source, "nights": nights}
    settings |= {"faults": with_faults}
    require_local(out)
    results = load_results(out, settings)
    if not results:
        save_results(out, settings, results, {})
    shop = RehearsedShop(out.resolve(), source, nights, recipe, overrides, data)
    planned = plan(nights, with_faults)
    rehearsal = Rehearsal(out.resolve(), recipe, list(overrides), shop, planned)
    rehearsal.train(show)
    for number, fault in list(enumerate(planned, start=1))[len(results) :]:
        result = rehearsal.night(number, kill_first=with_faults)
        results.append(result)
        measured = rehearsal.measured()
        save_results(out, settings, results, measured)
        report = rehearsal_report(results, measured)  # after every night, so that a broken off one has a page too
        report.save(out)
        write_page(report, [out / "report.html"])
        ends = ", then ".join(one.outcome for one in result.attempts)
        show(f"night {number} ({result.day}{', ' + fault if fault else ''}): {ends}; {result.cpu_seconds:.0f} CPU s")
    return rehearsal_report(results, rehearsal.measured())


class Rehearsal:
    """A store, its runs and the days of a shop.

    Args:
        planned: the fault of each night, from the first; "" for none.
    """

    def __init__(
        self, out: Path, recipe: str, overrides: list[str], shop: RehearsedShop, planned: Sequence[str]
    ) -> None:
        self.out, self.recipe, self.overrides, self.shop, self.planned = out, recipe, overrides, shop, planned
        self.store, self.runs, self.answers, self.baskets = (out / n for n in ("store", "runs", "answers", "baskets"))
        values = load_recipe(recipe, overrides)
        self.seed, self.max_queries = values.seed, values.evaluation.max_queries

    def train(self, show: Callable[[str], None]) -> None:
        """The first champion, unless the store has one."""
        if read_pointer(self.store)[0] is None:
            show("full training on the first day")
            places = ["--snapshot", str(self.shop.day(0)), "--bundle-store", str(self.store), "--runs", str(self.runs)]
            arguments = ["run", "full-training", "--recipe", self.recipe, *places, *self.overrides]
            trained = attempt(arguments, self.out / "logs" / "full-training.log")
            show(f"full training: {trained.cpu_seconds:.0f} CPU s")
        pointer, _ = read_pointer(self.store)
        if pointer is None:
            raise OneVisionError(f"the full training published nothing; read {self.out / 'logs/full-training.log'}")
        self.first = str(pointer["history"][0]["bundle"])

    def night(self, number: int, *, kill_first: bool = False) -> NightResult:
        """One night with its fault, tried again where a person would; `kill_first`: killed once before all that."""
        self._as_it_was_before(number)
        fault = self.planned[number - 1]
        before, rng = self._served(), np.random.default_rng([self.seed, number])
        day = self._spoilt(number, fault)
        wanted = faults.expected(fault, kill_first)
        harms: list[Watch | None] = [self._harm(fault), *[None] * (len(wanted) - 1)]
        if kill_first:
            harms = [some_time_after(str(rng.choice(faults.kill_stages(fault))), float(rng.uniform(0, 3))), *harms[:-1]]
        attempts = []
        for turn, watch in enumerate(harms, start=1):
            attempts.append(self._attempt(number, turn, day, watch))
            if fault == faults.SABOTAGED and turn == len(harms) - 1:
                faults.sabotage(self._newest("align-preferences"), self.seed)
            if (self.store / "bundles-away").exists():
                faults.mend_store(self.store)
        after = self._served()
        codes = [open_artifact(self._bundle(identity) / "semantic_ids") for identity in (self.first, after)]
        made = self._made(attempts)
        metrics: dict[str, float] = read_json(made["evaluation"] / "metrics.json") if "evaluation" in made else {}
        if "evaluation" in made:
            self._ask(number, self._bundle(before), made)
        events = {}
        if "snapshot" in made:
            events = count_events(self.shop.log, day, made["snapshot"], self.shop.date(number))
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
            loadable=_loads(self._bundle(after)),
            hr10={name: metrics[key] for name, key in _QUALITY.items() if key in metrics},
            difference=[metrics[_INTERVAL + end] for end in ("", "/low", "/high")] if _INTERVAL in metrics else None,
            events=events,
        )

    def measured(self) -> dict[str, Any]:
        """Over all nights: `refreshed_and_frozen`, see `frozen.compared`, and `baskets`, see `compared_baskets`."""
        answers, baskets = (map(pq.read_table, sorted(f.glob("*.parquet"))) for f in (self.answers, self.baskets))
        return {
            "refreshed_and_frozen": compared(answers, self.seed),
            "baskets": compared_baskets(baskets, self.seed),
        }

    def _ask(self, number: int, champion: Path, made: dict[str, Path]) -> None:
        """Let the champion of the days since the last measured night answer beside others."""
        last = max((int(path.stem) for path in self.answers.glob("*.parquet")), default=0)
        since, until, name = self.shop.date(last), self.shop.date(number), f"{number:02d}.parquet"
        tables = {self.answers: ask_frozen(self._bundle(self.first), made, self.max_queries, since)}
        if self.shop.has_baskets:
            tables[self.baskets] = ask_baskets(self.shop.log, champion, made, self.max_queries, since, until)
        for folder, table in reversed(tables.items()):  # the answers last: they say what was measured
            folder.mkdir(exist_ok=True)
            pq.write_table(table, folder / name)

    def _attempt(self, number: int, turn: int, day: Path, watch: Watch | None) -> Attempt:
        places = ["--champion", str(self.store), "--snapshot", str(day), "--runs", str(self.runs)]
        arguments = ["run", "nightly-refresh", "--recipe", self.recipe, *places, *self.overrides]
        ended = attempt(arguments, self.out / "logs" / f"night-{number:02d}-{turn}.log", watch)
        return replace(ended, why=[line.replace(f"{self.out}/", "") for line in ended.why])  # wherever it is rehearsed

    def _spoilt(self, number: int, fault: str) -> Path:
        day = self.shop.day(number)
        floods = [self.shop.date(n) for n, f in enumerate(self.planned[: number - 1], start=1) if f == faults.FLOOD]
        if floods:  # what bots did is delivered again as history
            day = faults.flood(day, self._new_day(number, "with-bots"), self.seed, floods)
        if fault not in faults.SPOIL:
            return day
        return faults.SPOIL[fault](day, self._new_day(number, "spoilt"), self.seed)

    def _new_day(self, number: int, how: str) -> Path:
        path = self.out / f"day-{number:02d}-{how}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def _harm(self, fault: str) -> Watch | None:
        """What is done while the night runs."""
        if fault == faults.SABOTAGED:
            return lambda said: began("calibrate-pruning", said)
        if fault == faults.STORE_FAILS:

            def break_it(said: str) -> bool:
                if (self.store / "bundles").is_dir() and began("evaluate", said):
                    faults.break_store(self.store)
                return False

            return break_it
        return None

    def _as_it_was_before(self, number: int) -> None:
        """Remember the store's pointer and nights; put them back if this night was begun before and broken off."""
        kept = self.out / "before" / f"{number:02d}"
        if (self.store / "bundles-away").exists():
            faults.mend_store(self.store)
        if kept.exists():
            for path in [path for path in self.store.iterdir() if path.is_file()]:
                path.unlink()
            shutil.rmtree(self.store / "nights", ignore_errors=True)
            shutil.copytree(kept, self.store, dirs_exist_ok=True)
            return
        shutil.rmtree(self.out / "before", ignore_errors=True)
        partial = self.out / "before" / "partial"
        shutil.copytree(self.store, partial, ignore=shutil.ignore_patterns("bundles", "encoders"))
        partial.rename(kept)

    def _made(self, attempts: Sequence[Attempt]) -> dict[str, Path]:
        """Artifacts of the newest attempt that finished the most of them."""
        found: dict[str, Path] = {}
        for one in attempts:
            stages = self.runs / one.run / "stages"
            made = {name: path.parent for name, task in _MADE.items() for path in stages.glob(f"*/{task}/{MANIFEST}")}
            found = made if one.run and len(made) >= len(found) else found
        return found

    def _newest(self, stage: str) -> Path:
        """The artifact of a stage that was finished last, in the stage cache."""
        entries = (self.runs / ".stages" / stage).glob("[!.]*/manifest.json")
        return max(entries, key=lambda manifest: manifest.stat().st_mtime_ns).parent

    def _served(self) -> str:
        pointer, _ = read_pointer(self.store)
        return str(pointer["bundle"]) if pointer else ""

    def _bundle(self, identity: str) -> Path:
        return self.store / "bundles" / identity


def _loads(bundle: Path) -> bool:
    """Whether a bundle can be served: every checksum, and every part read into memory."""
    from onevision.serving.search import Searcher

    try:
        Searcher.open(bundle)
    except OneVisionError:
        return False
    return True
