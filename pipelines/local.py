"""Run a pipeline on this machine: the same pipeline function, through `kfp.local`, one process a task.

KFP's detail goes to `run.log`; the terminal gets one line a stage, and the progress bars of the stage that runs.
A pipeline is imported where it is run: KFP compiles it then, which takes seconds.
"""

import builtins
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from kfp import local

from onevision.artifacts import require_local
from onevision.checkpoint import CHECKPOINTS_VARIABLE
from onevision.data.store import is_remote
from onevision.errors import OneVisionError
from onevision.recipe import load_recipe
from onevision.reporting.run_report import RunSummary, write_run_report
from onevision.runner import describe, make_snapshot
from onevision.runs import MERGERS, Run, run_settings
from onevision.shards import all_shards
from onevision.stage_cache import CACHE_VARIABLE, REUSE_VARIABLE
from onevision.stages import STAGES
from onevision.task import MARK, TERMINAL_VARIABLE

STAGE_CACHE = ".stages"
BUNDLE_STORES = "stores"
REPORT = "report.html"
KILLED = "the process ended without a word; most often the machine killed it for memory"
COLOUR = re.compile(r"\x1b\[\d*m")
INNER_TASK = re.compile(r"Inner task failed: '([\w-]+)'")


def run_full_training(
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    snapshot: str | None = None,
    run_date: str | None = None,
    bundle_store: str | None = None,
    data: Path | None = None,
    runs: Path = Path("runs"),
    reuse: bool = True,
    shards: int = 1,
    show: Callable[[str], None] | None = None,
) -> Run:
    """Run `full_training` and return its folder with artifacts, metrics and report.

    Args:
        snapshot: folder or `gs://` prefix; by default the recipe's own snapshot is made first.
        run_date: ISO date, by default today (UTC).
        bundle_store: by default `<runs>/stores/<recipe>`, so that a run meets the champion of its own recipe.
        data: folder of the grocery data, for recipes that start from it.
        reuse: take finished stages from earlier runs where nothing they depend on has changed.
        shards: tasks that embed pictures and assign IDs; with more than one `sharded_training` runs.
        show: takes one line for a person; by default it is printed.

    Raises:
        OneVisionError: a stage failed; the message says which, and what to do.
    """
    from pipelines.full_training import full_training, sharded_training

    show = show or _print
    values = load_recipe(recipe, overrides)
    run_date = run_date or datetime.now(UTC).date().isoformat()
    require_local(runs)
    runs = runs.resolve()
    store = bundle_store or str(runs / BUNDLE_STORES / Path(recipe).stem)
    name, pipeline, more = "full_training", full_training, {}
    if shards > 1:
        name, pipeline, more = "sharded_training", sharded_training, {"shards": all_shards(shards)}
    run = Run.create(runs, run_settings(name, recipe, overrides, snapshot or "", run_date, values))
    show(f"run {run.path.name}, detail in {_short(run.path / 'run.log')}")
    with _environment(runs / STAGE_CACHE, reuse):
        if snapshot is None:
            report = make_snapshot(run.path / "stages" / "snapshot", recipe=recipe, overrides=overrides, data=data)
            run.link("snapshot", run.path / "stages" / "snapshot")
            show(describe(report))
            snapshot = str(run.artifact("snapshot"))
        _run_pipeline(
            pipeline,
            run,
            show,
            snapshot=snapshot,
            run_date=run_date,
            recipe=_recipe_for_tasks(recipe),
            overrides=list(overrides),
            bundle_store=store,
            **more,
        )
    return run


def run_nightly_refresh(
    *,
    recipe: str,
    champion: str,
    snapshot: str,
    overrides: Sequence[str] = (),
    runs: Path = Path("runs"),
    reuse: bool = True,
    shards: int = 1,
    show: Callable[[str], None] | None = None,
) -> Run:
    """Run `nightly_refresh` and return its folder; without artifacts where there was nothing to do.

    Args:
        champion: bundle store whose champion is refreshed.
        snapshot: the day: folder or `gs://` prefix.
        reuse, shards, show: as for `run_full_training`.

    Raises:
        OneVisionError: a stage failed or the day was refused; the champion is as it was.
    """
    from pipelines.nightly_refresh import nightly_refresh

    show = show or _print
    values = load_recipe(recipe, overrides)
    champion, snapshot = (place if is_remote(place) else str(Path(place).resolve()) for place in (champion, snapshot))
    today = datetime.now(UTC).date().isoformat()
    require_local(runs)
    run = Run.create(runs.resolve(), run_settings("nightly_refresh", recipe, overrides, snapshot, today, values))
    show(f"run {run.path.name}, detail in {_short(run.path / 'run.log')}")
    with _environment(runs.resolve() / STAGE_CACHE, reuse):
        _run_pipeline(
            nightly_refresh,
            run,
            show,
            snapshot=snapshot,
            champion=champion,
            recipe=_recipe_for_tasks(recipe),
            overrides=list(overrides),
            shards=all_shards(shards),
        )
    return run


def _recipe_for_tasks(recipe: str) -> str:
    """A recipe's file by its full path: tasks run in other folders."""
    return str(Path(recipe).resolve()) if Path(recipe).suffix in (".yaml", ".yml") else recipe


def _run_pipeline(pipeline: Any, run: Run, show: Callable[[str], None], **arguments: object) -> None:
    """Run the pipeline, link its artifacts, write metrics and report; after a failure, of what finished before it."""
    log_file = run.path / "run.log"
    with (
        log_file.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(_Splitter(log, show)) as output,
        without_retries(pipeline),
        print_put_back(),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*non-Python base image.*", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(run.path / "stages"))
        failed = ""
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            found = INNER_TASK.search(COLOUR.sub("", str(error)))
            if not found:
                raise
            failed = found.group(1)
        finally:
            _link_artifacts(run)
    if not failed and run.artifact("publish").exists():  # a night may have nothing to do
        run.finish()
    said = output.since(f"{failed} failed: ") if failed else ""
    write_run_report(RunSummary.of(run, failed, said or KILLED if failed else ""), run.path / REPORT)
    if failed:
        if not said:
            show(f"{failed}: {KILLED}")
        raise OneVisionError(
            f"stage {failed!r} failed; its full output is in {_short(log_file)}\n"
            "Put right what it says, then give the same command again: finished stages are not run twice."
        )


@contextlib.contextmanager
def without_retries(pipeline: Any) -> Iterator[None]:
    """Drop the tasks' retries: they are for a cluster's lost machines; here a failure would only wait and repeat."""
    spec = pipeline.pipeline_spec
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]  # loops are components
    tasks = [task for dag in dags for task in dag.tasks.values() if task.HasField("retry_policy")]
    kept = [type(task.retry_policy).FromString(task.retry_policy.SerializeToString()) for task in tasks]
    for task in tasks:
        task.ClearField("retry_policy")
    try:
        yield
    finally:
        for task, policy in zip(tasks, kept, strict=True):
            task.retry_policy.CopyFrom(policy)


@contextlib.contextmanager
def print_put_back() -> Iterator[None]:
    """`print` afterwards is what it was: KFP indents it while a task runs, and shards run in threads, so that the last
    to end may put back what another had made of it."""
    before = builtins.print
    try:
        yield
    finally:
        builtins.print = before


def _link_artifacts(run: Run) -> None:
    """Link what every task wrote (`stages/<pipeline run>/<task>/<output>`) under the artifact's name."""
    for stage in (*STAGES, *MERGERS):
        for folder in run.path.glob(f"stages/*/{stage}/*"):
            if (folder / "manifest.json").exists():
                run.link(MERGERS.get(stage, stage), folder)


@contextlib.contextmanager
def _environment(cache: Path, reuse: bool) -> Iterator[None]:
    """Variables that the tasks' processes inherit: stage cache, checkpoints, terminal; put back afterwards."""
    wanted = {CACHE_VARIABLE: str(cache), REUSE_VARIABLE: "1" if reuse else "0", CHECKPOINTS_VARIABLE: str(cache)}
    if sys.stderr.isatty():
        wanted[TERMINAL_VARIABLE] = os.ttyname(sys.stderr.fileno())
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Splitter:
    """Standard output of a run: every line into the log, lines for a person also to `show`."""

    def __init__(self, log: TextIO, show: Callable[[str], None]) -> None:
        self.log = log
        self.show = show
        self.terminal = sys.stdout
        self.line = ""
        self.shown: list[str] = []

    def write(self, text: str) -> int:
        """Take text as it comes; lines are handled when they end."""
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            plain = COLOUR.sub("", line)
            self.log.write(plain + "\n")
            if plain.strip().startswith(MARK):
                self.shown.append(plain.strip().removeprefix(MARK))
                with contextlib.redirect_stdout(self.terminal):
                    self.show(self.shown[-1])
        return len(text)

    def since(self, start: str) -> str:
        """The lines that were shown from the one that begins with `start` to the end, without `start`."""
        first = next((n for n, line in enumerate(self.shown) if line.startswith(start)), len(self.shown))
        return "\n".join(self.shown[first:]).removeprefix(start)

    def flush(self) -> None:
        """Flush the log, so that a person may follow it."""
        self.log.flush()


def _print(line: str) -> None:
    """Print without `print`, which KFP replaces by one that indents."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _short(path: Path) -> str:
    """The path as a person would type it here."""
    return min(os.path.relpath(path), str(path), key=len)
