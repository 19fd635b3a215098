"""Run one stage: the same call behind the command line, the KFP components and the local pipeline.

It checks the inputs, loads the recipe, imports the stage's function, measures it, and leaves `report.json` and
`report.html` beside the artifact. Where a stage cache is named, finished work is taken from there.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onevision.allocator import keep_freed_memory
from onevision.artifacts import check_output_folder, open_artifact
from onevision.errors import MissingDependencyError, OneVisionError
from onevision.processes import process_count, process_rank
from onevision.recipe import load_recipe
from onevision.report import StageReport
from onevision.stage_cache import StageCache, stage_key
from onevision.stages import NIGHT_STAGES, SHARD_STAGES, STAGES, Stage

Location = Path | str
SYNTHETIC = "onevision.data.synthetic"
COUNTS_SHOWN = 5


def run_stage(
    name: str,
    inputs: Mapping[str, Location | Sequence[Location]],
    out: Path | str,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    html: Path | str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> StageReport:
    """Run a stage of `onevision.stages.STAGES` and write its artifact, its report and its page.

    Args:
        inputs: input name -> artifact folder; a snapshot may also be a `gs://` prefix; an optional one may be empty, a
            collected one is several of them.
        out: folder of the artifact; an artifact that is there already is replaced.
        recipe: packaged name or path of a YAML file; `overrides` are `section.key=value`.
        html: a second place for the page, such as the one that KFP shows.
        parameters: the stage's further arguments (`Stage.parameters`); empty ones count as not given.

    Under `torchrun` all processes do the work of a stage that can be shared, and process 0 alone writes.

    Raises:
        OneVisionError: a mistake in the name, the inputs, the recipe or the data.
    """
    stage = find_stage(name)
    alone = process_count() == 1
    if not alone and not stage.distributed:
        raise OneVisionError(f"stage {name} runs in one process; start it without torchrun")
    values = load_recipe(recipe, overrides)
    keep_freed_memory()
    arguments = _parameters(stage, parameters or {})
    if "recipe_hash" in stage.parameters:
        arguments.setdefault("recipe_hash", values.hash())
    section = getattr(values, stage.section)
    paths = _input_paths(stage, inputs)
    # Process 0 may be writing already when another comes here.
    target = Path(out) if process_rank() else check_output_folder(Path(out), paths, stage.output)
    kinds = stage.inputs | stage.collected | stage.optional
    identities = {name: _identity(found, kinds[name]) for name, found in paths.items()} | arguments

    def work() -> StageReport:
        function = _function(stage)
        missing = [key for key in stage.parameters if key in _required(function) and key not in arguments]
        if missing:
            raise OneVisionError(f"stage {name} needs {', '.join(f'--{key}' for key in missing)}")
        return function(**paths, **arguments, out=target, config=section, seed=values.seed)

    if process_rank():
        return work()
    cache = StageCache.from_environment() if stage.pure and alone else None
    key = stage_key(name, section, values.seed, identities, stage.function.partition(":")[0]) if cache else ""
    report = _finished(name, stage.output, target, work, cache, key)
    write_page(report, [target / "report.html", *([Path(html)] if html else [])])
    return report


def make_snapshot(out: Path, *, recipe: str, overrides: Sequence[str] = (), data: Path | None = None) -> StageReport:
    """Write the snapshot that a recipe starts from: the synthetic shop, or the grocery data in the folder `data`."""
    values = load_recipe(recipe, overrides)
    check_output_folder(out, {}, "snapshot")
    if values.snapshot.source == "grocery":
        from onevision.data.grocery import write_grocery_snapshot

        return _finished("snapshot", "snapshot", out, lambda: write_grocery_snapshot(out, data), None, "")

    def work() -> StageReport:
        from onevision.data.synthetic import write_synthetic_snapshot

        return write_synthetic_snapshot(out, values.snapshot, values.seed)

    cache = StageCache.from_environment()
    key = stage_key("snapshot", values.snapshot, values.seed, {}, SYNTHETIC) if cache else ""
    return _finished("snapshot", "snapshot", out, work, cache, key)


def find_stage(name: str) -> Stage:
    """The stage of that name; `OneVisionError` with the nearest right name."""
    known = STAGES | SHARD_STAGES | NIGHT_STAGES
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise OneVisionError(f"no stage {name!r}{hint} The stages are: {', '.join(known)}")
    return known[name]


def describe(report: StageReport) -> str:
    """One line about a finished stage: seconds, memory and the first counts (all are in its page)."""
    counts = list(report.counts.items())[:COUNTS_SHOWN]
    took = f"reused, took {report.seconds:.1f} s" if report.reused else f"{report.seconds:.1f} s"
    parts = [f"{took}, {report.peak_memory_mb:,.0f} MB", *(f"{n.replace('_', ' ')} {v:,}" for n, v in counts)]
    return f"{report.stage}: {', '.join(parts)}"


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _finished(
    name: str, kind: str, out: Path, work: Callable[[], StageReport], cache: StageCache | None, key: str
) -> StageReport:
    """Take the artifact from the cache, or do the work, measure it, and keep the artifact."""
    report = cache.fetch(name, key, kind, out) if cache else None
    if report:
        report.save(out)
        return report
    started = time.perf_counter()
    report = work()
    report.seconds = time.perf_counter() - started
    report.peak_memory_mb = peak_memory_mb()
    open_artifact(out, kind, verify=False)
    report.save(out)
    if cache:
        cache.store(name, key, out)
    return report


def _input_paths(stage: Stage, inputs: Mapping[str, Location | Sequence[Location]]) -> dict[str, Path | list[Path]]:
    """Local folders of a stage's inputs, in the stage's order; a snapshot in a bucket is downloaded."""
    inputs = {name: location for name, location in inputs.items() if location or name not in stage.optional}
    required = stage.inputs | stage.collected
    missing = required.keys() - inputs.keys()
    unknown = inputs.keys() - required.keys() - stage.optional.keys()
    if missing or unknown:
        raise OneVisionError(
            f"stage {stage.name} takes the inputs {', '.join(required)}"
            + (f"; missing: {', '.join(sorted(missing))}" if missing else "")
            + (f"; unknown: {', '.join(sorted(unknown))}" if unknown else "")
        )
    return {name: _local(inputs[name]) for name in (*required, *stage.optional) if name in inputs}


def _local(location: Location | Sequence[Location]) -> Path | list[Path]:
    if isinstance(location, (str, Path)):
        return _local_folder(str(location))
    return [_local_folder(str(one)) for one in location]


def _identity(found: Path | list[Path], kind: str) -> str:
    if isinstance(found, Path):
        return open_artifact(found, kind, verify=False).identity
    return ",".join(open_artifact(path, kind, verify=False).identity for path in found)


def _local_folder(location: str) -> Path:
    if "://" not in location:
        return Path(location)
    from onevision.data.snapshot import Snapshot

    return Snapshot.open(location).path


def _parameters(stage: Stage, parameters: Mapping[str, str]) -> dict[str, str]:
    unknown = parameters.keys() - stage.parameters.keys()
    if unknown:
        raise OneVisionError(f"stage {stage.name} has no parameter {', '.join(sorted(unknown))}")
    return {name: value for name, value in parameters.items() if value}


def _required(function: Callable[..., StageReport]) -> list[str]:
    """Names of the arguments that have no default."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]


def _function(stage: Stage) -> Callable[..., StageReport]:
    module, _, function = stage.function.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if stage.extra is None or (error.name or "").split(".")[0] == "onevision":
            raise
        raise MissingDependencyError(
            f"stage {stage.name} needs the package {error.name!r}: pip install 'onevision[{stage.extra}]'"
        ) from None
    return found


def write_page(report: StageReport, places: Sequence[Path]) -> None:
    """Write the HTML page of a report, in one step, to every one of `places`."""
    from onevision.reporting.page import stage_page

    page = stage_page(report)
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(place)
