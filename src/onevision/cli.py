"""The command line: maps commands to library calls, and a user's mistake to one message.

The commands of the stages are made from `onevision.stages`. Nothing heavy is imported before a command needs it, so
that `onevision --help` answers at once.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onevision.errors import OneVisionError
from onevision.features.commands import features_app
from onevision.pipeline_commands import compile_pipelines, pipeline_module, submit
from onevision.processes import process_rank
from onevision.publishing.commands import champion_app, rollback
from onevision.quantization.commands import codebook_sizes, encoding_report
from onevision.report_output import show_tables
from onevision.semantic_ids.commands import ids_app
from onevision.serving.commands import serve
from onevision.stages import NIGHT_STAGES, SHARD_STAGES, STAGES, Stage

if TYPE_CHECKING:
    from onevision.report import StageReport
    from onevision.runs import Run

app = typer.Typer(
    name="onevision",
    help="Generative visual product search: train, evaluate, publish and search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
snapshot_app = typer.Typer(help="Write or check a snapshot of a shop.", no_args_is_help=True)
run_app = typer.Typer(help="Run a whole pipeline on this machine.", no_args_is_help=True)
recipes_app = typer.Typer(help="The packaged recipes.", no_args_is_help=True)
app.add_typer(run_app, name="run")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(recipes_app, name="recipes")
app.add_typer(ids_app, name="ids")
app.add_typer(champion_app, name="champion")
app.add_typer(features_app, name="features")
app.command("compile", rich_help_panel="Pipelines on a cluster")(compile_pipelines)
app.command("submit", rich_help_panel="Pipelines on a cluster")(submit)
app.command("rollback", rich_help_panel="Use")(rollback)
app.command("serve", rich_help_panel="Use")(serve)
app.command("encoding-report", rich_help_panel="Use")(encoding_report)
app.command("codebook-sizes", rich_help_panel="Use")(codebook_sizes)

Out = Annotated[Path, typer.Option("--out", help="folder of the artifact; an earlier artifact there is replaced")]
RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="packaged recipe, or path of a .yaml file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides of the recipe, such as encoder.steps=50")
]
LATEST_RUN = Path("runs/latest")
Runs = Annotated[Path, typer.Option("--runs", help="folder of the runs")]


def main() -> None:
    """Entry point: `OneVisionError` becomes one message and exit code 1, a wrong usage exit code 2."""
    try:
        app()
    except OneVisionError as error:
        print(f"onevision: {error}", file=sys.stderr)
        sys.exit(1)


def _stage_command(stage: Stage) -> Callable[..., None]:
    """The command of a stage: an option for every input and parameter, then `--out`, `--recipe` and overrides."""

    def command(*, out: Path, recipe: str, overrides: list[str] | None, **arguments: Any) -> None:
        from onevision.runner import run_stage

        inputs = {name: arguments[name] for name in (*stage.inputs, *stage.collected, *stage.optional)}
        parameters = {name: arguments[name] for name in stage.parameters}
        report = run_stage(stage.name, inputs, out, recipe=recipe, overrides=overrides or [], parameters=parameters)
        if process_rank() == 0:
            _show(report, out)

    required = inspect.Parameter.empty
    options: list[tuple[str, Any, Any]] = [
        (n, _option(f"{kind} artifact"), required) for n, kind in stage.inputs.items()
    ]
    options += [(n, _options(f"{kind} artifacts, an option each"), required) for n, kind in stage.collected.items()]
    options += [("out", Out, required), ("recipe", RecipeName, required)]
    options += [(n, _option(f"{kind} artifact, if there is one"), "") for n, kind in stage.optional.items()]
    options += [(name, _option(text), "") for name, text in stage.parameters.items()]
    options += [("overrides", Overrides, None)]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, annotation, default in options
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = stage.summary[0].upper() + stage.summary[1:] + "."
    return command


def _option(text: str) -> object:
    return Annotated[str, typer.Option(help=text)]


def _options(text: str) -> object:
    return Annotated[list[str], typer.Option(help=text)]


for _panel, _stages in (("Stages", STAGES), ("Shards of stages", SHARD_STAGES), ("Nights", NIGHT_STAGES)):
    for _stage in _stages.values():
        app.command(_stage.name, rich_help_panel=_panel)(_stage_command(_stage))


@snapshot_app.command("synthetic")
def snapshot_synthetic(out: Out, recipe: RecipeName = "quickstart", overrides: Overrides = None) -> None:
    """Write the synthetic shop of a recipe."""
    from onevision.runner import make_snapshot

    _show(make_snapshot(out, recipe=recipe, overrides=[*(overrides or []), "snapshot.source=synthetic"]), out)


@snapshot_app.command("grocery")
def snapshot_grocery(
    out: Out, data: Annotated[Path | None, typer.Option(help="folder of the grocery data")] = None
) -> None:
    """Write a snapshot of real shop photos joined with real purchases."""
    from onevision.runner import make_snapshot

    _show(make_snapshot(out, recipe="grocery", data=data), out)


@snapshot_app.command("import")
def snapshot_import(
    source: Annotated[Path, typer.Argument(help="folder with the shop's tables and pictures")], out: Out
) -> None:
    """Turn a shop's own folder of tables and pictures into a snapshot."""
    from onevision.data.folder import import_folder

    _show(import_folder(source, out), out)


@snapshot_app.command("cut")
def snapshot_cut(
    source: Annotated[str, typer.Argument(help="folder or gs:// prefix of a later snapshot")],
    date: Annotated[datetime, typer.Option(help="date of the new snapshot, at 00:00 UTC", formats=["%Y-%m-%d"])],
    out: Out,
) -> None:
    """Write a snapshot as it was at an earlier date: what was known then, and nothing later."""
    from onevision.data.days import cut_snapshot

    _show(cut_snapshot(source, out, date), out)


@snapshot_app.command("verify")
def snapshot_verify(snapshot: Annotated[str, typer.Argument(help="folder or gs:// prefix")]) -> None:
    """Check a snapshot's files, tables and columns against manifest and contract."""
    from onevision.data.snapshot import Snapshot

    found = Snapshot.open(snapshot)
    counts = ", ".join(f"{name} {count:,}" for name, count in found.artifact.counts.items())
    print(f"{snapshot}: snapshot {found.snapshot_id} of {found.as_of:%Y-%m-%d}, {counts}")


@run_app.command("full-training")
def run_full_training(
    recipe: RecipeName = "quickstart",
    overrides: Overrides = None,
    snapshot: Annotated[str | None, typer.Option(help="folder or gs:// prefix; by default the recipe's own")] = None,
    run_date: Annotated[str | None, typer.Option(help="ISO date of the run; by default today")] = None,
    bundle_store: Annotated[str | None, typer.Option(help="by default a folder of the recipe in --runs")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the grocery data, for the recipe grocery")] = None,
    runs: Runs = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="take finished stages of earlier runs where nothing changed")
    ] = True,
    shards: Annotated[int, typer.Option(help="tasks that embed pictures and assign IDs", min=1)] = 1,
) -> None:
    """Train, evaluate and publish: every stage, on the local KFP runner."""
    run = pipeline_module("local").run_full_training(
        recipe=recipe,
        overrides=overrides or [],
        snapshot=snapshot,
        run_date=run_date,
        bundle_store=bundle_store,
        data=data,
        runs=runs,
        reuse=resume,
        shards=shards,
    )
    _show_run(run)


@run_app.command("nightly-refresh")
def run_nightly_refresh(
    champion: Annotated[str, typer.Option(help="bundle store whose champion is refreshed: a folder or gs:// prefix")],
    snapshot: Annotated[str, typer.Option(help="the day: a snapshot's folder or gs:// prefix")],
    recipe: RecipeName = "quickstart",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="take finished stages of earlier runs where nothing changed")
    ] = True,
    shards: Annotated[int, typer.Option(help="tasks that embed pictures", min=1)] = 1,
) -> None:
    """Take a day in: a better bundle goes live, or the champion stays as it is."""
    run = pipeline_module("local").run_nightly_refresh(
        recipe=recipe,
        overrides=overrides or [],
        champion=champion,
        snapshot=snapshot,
        runs=runs,
        reuse=resume,
        shards=shards,
    )
    if run.artifact("publish").exists():
        _show_run(run)


@app.command("search", rich_help_panel="Use")
def search(
    image: Annotated[Path, typer.Option(help="the photo to search with")],
    bundle: Annotated[Path, typer.Option(help="bundle to search in")] = LATEST_RUN / "bundle",
    features: Annotated[Path | None, typer.Option(help="features artifact, for a known user")] = None,
    user: Annotated[str | None, typer.Option(help="who searches; by default nobody known")] = None,
    k: Annotated[int, typer.Option("-k", help="items to find", min=1)] = 10,
    category: Annotated[str | None, typer.Option(help="only items of this category (name or id)")] = None,
    min_price: Annotated[float | None, typer.Option(help="only items at this price or above")] = None,
    max_price: Annotated[float | None, typer.Option(help="only items at this price or below")] = None,
    in_stock: Annotated[bool, typer.Option("--in-stock", help="only items in stock")] = False,
    html: Annotated[Path | None, typer.Option(help="also write a page with the pictures")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="snapshot that the page takes the items' pictures from")] = None,
) -> None:
    """Find the items in a photo."""
    from onevision.decoding.filters import ItemFilter
    from onevision.serving.search import Searcher

    if not image.is_file():
        raise OneVisionError(f"{image}: no such picture")
    photo = image.read_bytes()
    only = ItemFilter(category, min_price, max_price, in_stock)
    answer = Searcher.open(bundle, features).answer(photo, user, k, only)
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)
    for rank, hit in enumerate(answer.hits, start=1):
        sid = "-".join(map(str, hit.sid))
        print(f"{rank:>3}  {hit.item_id}  {hit.score:8.3f}  {sid:<16} {hit.price:>9.2f}  {hit.title or hit.category}")
    if html:
        from onevision.reporting.gallery import write_gallery

        write_gallery(answer.hits, html, photo=photo, snapshot=snapshot, user_id=user, notes=answer.notes)
        print(f"written to {html}")


@app.command("evaluate-queries", rich_help_panel="Use")
def evaluate_queries(
    queries: Annotated[Path, typer.Option(help="judged queries, .csv or .parquet: image, relevant, user")],
    bundle: Annotated[Path, typer.Option(help="bundle to measure")] = LATEST_RUN / "bundle",
    features: Annotated[Path | None, typer.Option(help="features artifact, for known users")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for figures, ranks and rows set aside")] = None,
) -> None:
    """Measure a bundle on your own judged queries, beside dense neighbours."""
    from onevision.evaluation.queries import evaluate_queries

    show_tables(evaluate_queries(bundle, queries, features=features, out=out), out)


@app.command("simulate-nights", rich_help_panel="Nights")
def simulate_nights(
    out: Annotated[Path, typer.Option(help="new folder for days, runs, store and report, or one to go on in")],
    recipe: RecipeName = "smoke",
    overrides: Overrides = None,
    source: Annotated[
        str, typer.Option(help="synthetic, grocery, or a snapshot whose last days are the nights")
    ] = "synthetic",
    data: Annotated[Path | None, typer.Option(help="folder of the grocery data, for --source grocery")] = None,
    nights: Annotated[int, typer.Option(help="nights after the full training", min=1, max=365)] = 8,
    faults: Annotated[bool, typer.Option("--faults", help="let something go wrong on every night")] = False,
) -> None:
    """Rehearse the nightly refresh: night after night on days of one shop, with faults on purpose."""
    from onevision.rehearsal.nights import simulate_nights

    found = simulate_nights(
        out=out,
        recipe=recipe,
        overrides=overrides or [],
        nights=nights,
        source=source,
        with_faults=faults,
        show=lambda line: print(line, flush=True),
        data=data,
    )
    show_tables(found, None)
    print(f"written to {out}")


@app.command("report", rich_help_panel="Use")
def report(run: Annotated[Path, typer.Argument(help="run folder")] = LATEST_RUN) -> None:
    """Write a run's report again, and show its summary."""
    from onevision.reporting.run_report import RunSummary, write_run_report
    from onevision.runs import Run

    found = Run.open(run)
    write_run_report(RunSummary.of(found), found.path / "report.html")
    _show_run(found)


@app.command("compare", rich_help_panel="Use")
def compare(
    before: Annotated[Path, typer.Argument(help="run folder")],
    after: Annotated[Path, typer.Argument(help="run folder")],
    metrics: Annotated[list[str] | None, typer.Argument(help="names; * stands for anything, as in 'align/*'")] = None,
) -> None:
    """Show what differs between two runs: figures, and the values of their recipes."""
    from rich.console import Console

    from onevision.evaluation.between_runs import RANKS, paired_differences
    from onevision.runs import Run
    from onevision.summary import HEADLINE, comparison_table, recipe_changes, table_of

    old, new = Run.open(before), Run.open(after)
    print("\n".join(recipe_changes(old.settings.values, new.settings.values)) or "the same recipe values")
    Console().print(comparison_table(old.metrics(), new.metrics(), metrics or HEADLINE))
    evaluations = [run.artifact("evaluate") for run in (old, new)]
    differences = paired_differences(*evaluations) if all((f / RANKS).exists() for f in evaluations) else None
    if differences is not None:
        Console().print(table_of(differences))


@recipes_app.command("list")
def recipes_list() -> None:
    """Names of the packaged recipes."""
    from onevision.recipe import recipe_names

    print("\n".join(recipe_names()))


@recipes_app.command("show")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="packaged recipe, or path of a .yaml file")], overrides: Overrides = None
) -> None:
    """Every value of a recipe, defaults included, as YAML."""
    import yaml

    from onevision.recipe import load_recipe

    values = load_recipe(recipe, overrides or []).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False), end="")


def _show(report: StageReport, out: Path) -> None:
    from onevision.runner import describe

    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{describe(report)}\nwritten to {out}")


def _show_run(run: Run) -> None:
    from rich.console import Console

    from onevision.artifacts import open_artifact
    from onevision.reporting.run_sections import verdict
    from onevision.summary import stage_table, systems_table

    console = Console()
    console.print(stage_table(run.reports()))
    if run.artifact("evaluate").exists():
        console.print(systems_table(open_artifact(run.artifact("evaluate"), verify=False)))
    if run.artifact("publish").exists():
        print(f"the bundle was {verdict(run.artifact('publish'))}")
    for path in (run.path / name for name in ("report.html", "metrics.json", "bundle")):
        if path.exists():
            print(min(os.path.relpath(path), str(path), key=len))
