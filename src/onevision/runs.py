"""Run folders of local pipelines: where a run's artifacts, metrics and report are.

`runs/<id>/` holds a link to every artifact under the name that the stages know it by (`encoder`, `bundle`, ...),
`run.json` (what was asked for), `metrics.json`, `report.html` and `run.log`; `runs/latest` is the last finished run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onevision.artifacts import read_json, write_json
from onevision.errors import ArtifactError
from onevision.recipe import Recipe
from onevision.report import REPORT, StageReport

LATEST = "latest"
RAW_SNAPSHOT = "raw_snapshot"
LINKS = {
    "snapshot": RAW_SNAPSHOT,
    "validate": "snapshot",
    "pair": "pairs",
    "align": "encoder",
    "train-vrq": "quantizer",
    "assign-ids": "semantic_ids",
    "materialize-features": "features",
    "sft": "generator_sft",
    "align-preferences": "generator_aligned",
    "calibrate-pruning": "pruning",
    "evaluate": "evaluation",
    "publish": "bundle",
}
"""Stage -> name of its artifact in a run folder, in the order of the report."""
MERGERS = {"merge-embeddings": "align", "merge-ids": "assign-ids"}
"""Stage that puts shards together -> the stage whose artifact it makes."""


@dataclass(frozen=True)
class RunSettings:
    """What a run was asked for; `values` is the resolved recipe."""

    pipeline: str
    recipe: str
    overrides: list[str]
    snapshot: str
    run_date: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @classmethod
    def create(cls, runs: Path, settings: RunSettings) -> Run:
        """A new folder `<UTC time>-<recipe>` under `runs`, with `run.json`."""
        stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{Path(settings.recipe).stem}"
        for suffix in ("", *(f"-{n}" for n in range(2, 100))):
            path = runs.resolve() / (stem + suffix)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            write_json(path / "run.json", asdict(settings))
            return cls(path)
        raise ArtifactError(f"{runs}: too many runs called {stem}")

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run folder; `ArtifactError` if it is none."""
        if not (path / "run.json").exists():
            raise ArtifactError(f"{path}: not a run folder (no run.json)")
        return cls(path.resolve())

    @property
    def settings(self) -> RunSettings:
        """What the run was asked for."""
        return RunSettings(**read_json(self.path / "run.json"))

    def link(self, stage: str, artifact: Path) -> None:
        """Point the name of the stage's artifact at the folder where it is."""
        replace_link(self.path / LINKS[stage], artifact)

    def artifact(self, stage: str) -> Path:
        """Folder of a stage's artifact."""
        return self.path / LINKS[stage]

    def reports(self) -> list[StageReport]:
        """Reports of the stages that finished, in the order of the pipeline."""
        folders = (self.artifact(stage) for stage in LINKS)
        return [StageReport.load(folder) for folder in folders if (folder / REPORT).exists()]

    def metrics(self) -> dict[str, float]:
        """Flat metrics: those of the evaluation, then every stage's own, its counts, seconds and `peak_memory_mb`.

        The evaluation's are `<system>/<metric>`, latencies among them; the others `<stage>/<name>`.
        """
        metrics: dict[str, float] = {}
        for report in self.reports():
            if report.stage == "evaluate":
                metrics.update(report.metrics)
            metrics[f"{report.stage}/seconds"] = report.seconds
            metrics[f"{report.stage}/peak_memory_mb"] = report.peak_memory_mb
            own = {} if report.stage == "evaluate" else report.metrics
            metrics.update({f"{report.stage}/{name}": value for name, value in (report.counts | own).items()})
        return metrics

    def finish(self) -> None:
        """Write `metrics.json`, and make this run the latest."""
        write_json(self.path / "metrics.json", self.metrics())
        replace_link(self.path.parent / LATEST, self.path)


def run_settings(
    pipeline: str, recipe: str, overrides: Sequence[str], snapshot: str, run_date: str, values: Recipe
) -> RunSettings:
    """Settings with the resolved recipe as plain values."""
    return RunSettings(pipeline, recipe, list(overrides), snapshot, run_date, values.model_dump(mode="json"))


def replace_link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, in one step, whatever it pointed at before."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
