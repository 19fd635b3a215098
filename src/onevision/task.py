"""Run one stage as a task of a pipeline: what every KFP component calls.

It says on standard output which stage runs and how it ended, and hands metrics and lineage to KFP through the two
attributes it needs (`path`, `metadata`), so that the library knows no KFP.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onevision.artifacts import copy_tree, open_artifact
from onevision.errors import ArtifactError, ContractError, OneVisionError
from onevision.recipe import load_recipe
from onevision.report import StageReport
from onevision.runner import describe, run_stage, write_page

if TYPE_CHECKING:
    from onevision.publishing.nights import Night
    from onevision.train_job import Machines

MARK = "onevision: "
"""Lines for a person begin with this; everything else that a task prints is detail."""
TERMINAL_VARIABLE = "ONEVISION_TERMINAL"
"""Terminal device for progress bars, where a local pipeline collects the output of its tasks."""


class Output(Protocol):
    """What a task needs of a KFP artifact."""

    path: str
    metadata: dict[str, Any]


def run_task(
    name: str,
    inputs: Mapping[str, str | Sequence[str]],
    out: Output,
    *,
    recipe: str,
    overrides: Sequence[str],
    metrics: Output,
    page: Output,
    parameters: Mapping[str, str] | None = None,
    snapshot_id: str = "",
    lineage: Mapping[str, str] | None = None,
    night: str = "",
) -> StageReport:
    """Run a stage, log its metrics, and put identity and counts on the artifact.

    A mistake in the input ends the process with status 1 and one message; a bug keeps its traceback.

    Args:
        snapshot_id: where not empty, the snapshot that comes in must carry this id.
        lineage: what else KFP should know of the artifact, such as the date of the run.
        night: where not empty, a mistake in the input is recorded as what ended this night.
    """
    say(f"{name}: started")
    try:
        if snapshot_id:
            _require_snapshot(str(inputs["snapshot"]), snapshot_id)
        with _terminal_for_progress():
            report = run_stage(
                name, inputs, out.path, recipe=recipe, overrides=overrides, html=page.path, parameters=parameters
            )
    except OneVisionError as error:
        say(f"{name} failed: {error}")
        if night:
            _record_failure(night, name, error)
        raise SystemExit(1) from None
    except Exception as error:
        say(f"{name} failed: {type(error).__name__}: {error} (a bug: its traceback is in the log)")
        raise
    _tell(name, report, out, metrics, lineage or {})
    return report


def run_job(
    name: str,
    inputs: Mapping[str, str],
    out: Output,
    scratch: str,
    machines: Machines,
    *,
    recipe: str,
    overrides: Sequence[str],
    metrics: Output,
    page: Output,
    options: Mapping[str, str],
) -> None:
    """Run a stage on several machines (`onevision.train_job`), and hand its artifact on as `run_task` does."""
    from onevision.train_job import run_on_machines

    say(f"{name}: started on {machines.nodes} machines")
    try:
        run_on_machines(
            name, inputs, Path(out.path), scratch, machines, recipe=recipe, overrides=overrides, options=options
        )
    except OneVisionError as error:
        say(f"{name} failed: {error}")
        raise SystemExit(1) from None
    report = StageReport.load(Path(out.path))
    write_page(report, [Path(page.path)])
    _tell(name, report, out, metrics, {})


def _tell(name: str, report: StageReport, out: Output, metrics: Output, lineage: Mapping[str, str]) -> None:
    for warning in report.warnings:
        say(f"{name}: warning: {warning}")
    say(describe(report))
    artifact = open_artifact(out.path, verify=False)
    out.metadata.update(artifact.counts)
    out.metadata.update(lineage, identity=artifact.identity, generation=artifact.generation or "")
    metrics.metadata.update({key: float(value) for key, value in report.metrics.items()})
    metrics.metadata.update(seconds=report.seconds, peak_memory_mb=report.peak_memory_mb)


def require(**needs: Any) -> None:
    """Check what a pipeline needs (`onevision.prerequisites.check_prerequisites`); what is missing ends the process."""
    from onevision.prerequisites import check_prerequisites

    try:
        found = check_prerequisites(**needs)
    except OneVisionError as error:
        say(f"prerequisites failed: {error}")
        raise SystemExit(1) from None
    say("\n".join(f"prerequisites: {line}" for line in found))


def hand_out(bundle: Output, parts: Mapping[str, Output], store: str) -> None:
    """Give the parts of a bundle to tasks that take them alone; the encoder with its pictures, if the store has it."""
    for name, part in parts.items():
        held = Path(bundle.path) / name
        if name != "encoder" or not _fetch_pictures(store, held, Path(part.path)):
            copy_tree(held, Path(part.path))
        artifact = open_artifact(part.path, verify=False)
        part.metadata.update(identity=artifact.identity, generation=artifact.generation or "")


def _fetch_pictures(store: str, encoder: Path, out: Path) -> bool:
    """Fetch the encoder with its embedded pictures; a damaged copy is as good as none, all is embedded again."""
    from onevision.publishing.promotion import fetch_encoder

    try:
        return fetch_encoder(store, open_artifact(encoder, verify=False).identity, out)
    except ArtifactError as error:
        say(f"the store's embedded pictures are damaged, and made anew: {error}")
        return False


def night_of(store: str, day: str, run: str, *, recipe: str, overrides: Sequence[str]) -> Night:
    """The night of a day's snapshot, whose manifest is read, and a recipe."""
    from onevision.publishing.nights import Night, read_day

    return Night.of(store, read_day(day), load_recipe(recipe, overrides).hash(), run)


def end_night(
    store: str, day: str, run: str, *, recipe: str, overrides: Sequence[str], succeeded: bool, page: Output
) -> None:
    """Close a night: say and show how it ended and what to do next. A day that cannot be read has no night."""
    from onevision.publishing.closing import Closing, close_night

    try:
        closing = close_night(night_of(store, day, run, recipe=recipe, overrides=overrides), succeeded)
    except OneVisionError as error:
        closing = Closing.unreadable(day, str(error))
    say("\n".join(closing.lines()))
    write_page(closing.report(), [Path(page.path)])


def say(text: str) -> None:
    """Print lines that the local pipeline shows to the person who waits."""
    for line in text.splitlines():
        print(f"{MARK}{line}", flush=True)


def _record_failure(night: str, stage: str, error: OneVisionError) -> None:
    """A day that is refused stops a night; anything else that goes wrong is a failure of it."""
    from onevision.publishing.nights import Night

    try:
        refused = stage == "validate" and isinstance(error, (ContractError, ArtifactError))
        Night.parse(night).record("stopped" if refused else "failed", str(error).splitlines())
    except OneVisionError as error:
        say(f"the store did not take down why the night stopped: {error}")


def _require_snapshot(location: str, snapshot_id: str) -> None:
    from onevision.data.snapshot import Snapshot

    found = Snapshot.open(location, verify=False).snapshot_id
    if found != snapshot_id:
        raise OneVisionError(f"{location}: this is snapshot {found!r}, the run is for {snapshot_id!r}")


@contextlib.contextmanager
def _terminal_for_progress() -> Iterator[None]:
    """Send standard error, where the progress bars are, to the terminal that the environment names."""
    device = os.environ.get(TERMINAL_VARIABLE)
    if not device or not Path(device).exists():
        yield
        return
    with open(device, "w", buffering=1) as terminal, contextlib.redirect_stderr(terminal):
        yield
