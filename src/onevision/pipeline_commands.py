"""`onevision compile` and `onevision submit`: options of the command line; the work is in the package `pipelines`.

The library imports neither KFP nor the pipelines. The command line loads the module that it needs by its name, when the
command runs (docs/architecture.md, Rooms).
"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from onevision.errors import MissingDependencyError, OneVisionError

SUCCEEDED = "SUCCEEDED"
Target = Annotated[str, typer.Option("--target", "-t", help="where it runs: local, dev or prod")]
Image = Annotated[
    str | None,
    typer.Option(help="image of every task; prod wants it by digest", envvar="ONEVISION_IMAGE", show_envvar=True),
]
Nodes = Annotated[int, typer.Option(min=1, help="machines that train together, as a TrainJob of Kubeflow Trainer")]
Scratch = Annotated[str, typer.Option(help="gs://bucket/prefix where machines of a job leave what they made")]


def pipeline_module(name: str) -> Any:
    """A module of the package `pipelines`: the one place where the command line meets KFP."""
    try:
        return importlib.import_module(f"pipelines.{name}")
    except ModuleNotFoundError as error:
        if error.name != "kfp":
            raise
        raise MissingDependencyError("pipelines need KFP: pip install 'onevision[pipelines]'") from None


def compile_pipelines(
    out: Annotated[Path, typer.Option(help="folder for a file a pipeline")],
    target: Target = "local",
    image: Image = None,
    nodes: Nodes = 1,
    scratch: Scratch = "",
    namespace: Annotated[
        str, typer.Option(help="write Pipeline and PipelineVersion resources of this namespace, to be applied")
    ] = "",
) -> None:
    """Compile the pipelines for a target."""
    placement = _placement(target, image, nodes, scratch)
    for file in pipeline_module("compile").compile_pipelines(out, namespace=namespace, **placement):
        print(file)


def submit(
    pipeline: Annotated[str, typer.Argument(help="full_training, sharded_training or nightly_refresh")],
    host: Annotated[str, typer.Option(help="KFP's API server, such as http://ml-pipeline:8888")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="of the pipeline; {date} is the date")
    ] = None,
    target: Target = "dev",
    image: Image = None,
    nodes: Nodes = 1,
    scratch: Scratch = "",
    date: Annotated[datetime | None, typer.Option(help="by default today", formats=["%Y-%m-%d"])] = None,
    wait_hours: Annotated[float, typer.Option(help="time that the run has")] = 8.0,
    service_account: Annotated[str, typer.Option(help="that the tasks run as")] = "onevision-pipeline",
) -> None:
    """Submit a pipeline to Kubeflow Pipelines and wait for its end; a date that runs or succeeded is not run again."""
    module = pipeline_module("submit")
    day = (date or datetime.now(UTC)).date()
    placement = _placement(target, image, nodes, scratch)
    state = module.submit(
        host, pipeline, arguments or [], day=day, wait_hours=wait_hours, service_account=service_account, **placement
    )
    print(state)
    if state != SUCCEEDED:
        raise OneVisionError(f"{pipeline} of {day.isoformat()} ended as {state}")


def _placement(target: str, image: str | None, nodes: int, scratch: str) -> dict[str, Any]:
    return {"target": target, "nodes": nodes, "scratch": scratch} | ({"image": image} if image else {})
