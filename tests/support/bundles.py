"""Small artifacts of every kind that publish takes, without any training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision.artifacts import Artifact, finish_artifact, open_artifact, start_artifact, write_json
from onevision.data.snapshot import Snapshot
from onevision.publishing import history, retention
from onevision.publishing.config import PublishingConfig
from onevision.publishing.nights import Night
from onevision.publishing.stage import run
from onevision.report import StageReport

SYSTEMS = ("dense", "generator_pruned")


class Shop:
    """Writes the inputs of publish into a folder and runs it."""

    def __init__(self, snapshot: Path, root: Path) -> None:
        self.root = root
        self.snapshot = open_artifact(snapshot)

    def artifact(self, name: str, kind: str, files: dict[str, str], **more: Any) -> Artifact:
        path = start_artifact(self.root / name)
        for file, text in files.items():
            (path / file).write_text(text)
        return finish_artifact(path, kind, **more)

    def inputs(self, hr: float = 0.5, weights: str = "w", generation: str = "g1", queries: int = 20) -> dict[str, Path]:
        """Artifacts named by `publish`'s arguments; `hr` is the challenger's HR@10, dense neighbours have 0.5."""
        of = {"generation": generation}
        made = {
            "encoder": self.artifact("encoder", "encoder", {"model.safetensors": "e", "tokens.safetensors": "t"}),
            "quantizer": self.artifact("quantizer", "quantizer", {"model.safetensors": "q"}, **of),
            "semantic_ids": self._semantic_ids(generation),
            "features": self.artifact("features", "features", {"training_sequences.parquet": "f"}),
            "generator_sft": self.artifact("sft", "generator", {"model.safetensors": weights}, **of),
            "generator_aligned": self.artifact(
                "aligned", "generator", {"model.safetensors": weights + "a", "history.json": "{}"}, **of
            ),
            "pruning": self.artifact("pruning", "pruning", {"pruning.json": "{}"}, **of),
        }
        return self.measured({name: artifact.path for name, artifact in made.items()}, hr, queries)

    def measured(self, paths: dict[str, Path], hr: float = 0.5, queries: int = 20) -> dict[str, Path]:
        """The same artifacts with the snapshot and an evaluation of them."""
        parents = {"snapshot": self.snapshot} | {name: open_artifact(path) for name, path in paths.items()}
        evaluation = self._evaluation(hr, queries, parents)
        return {name: artifact.path for name, artifact in {**parents, "evaluation": evaluation}.items()}

    def _semantic_ids(self, generation: str) -> Artifact:
        items = Snapshot.open(self.snapshot.path).table("items").sort_by("item_id")
        path = start_artifact(self.root / "semantic_ids")
        sids = [[n % 4, n // 4] for n in range(len(items))]
        table = items.select(["item_id", "category_id", "price", "in_stock"]).append_column("sid", pa.array(sids))
        pq.write_table(table, path / "items.parquet")
        return finish_artifact(path, "semantic_ids", generation=generation, counts={"items_assigned": len(items)})

    def _evaluation(self, hr: float, queries: int, parents: dict[str, Artifact]) -> Artifact:
        path = start_artifact(self.root / "evaluation")
        metrics = {"generator_pruned/invalid_rate": 0.0}
        rows = []
        for system, rate in zip(SYSTEMS, (0.5, hr), strict=True):
            hits = round(rate * queries)
            metrics |= {f"{system}/hr@10": rate, f"{system}/hr@50": rate, f"{system}/mrr@10": rate / 2}
            ranks = [2 if n < hits else None for n in range(queries)]
            rows += [{"query_id": f"q{n}", "system": system, "rank": rank} for n, rank in enumerate(ranks)]
        write_json(path / "metrics.json", metrics)
        pq.write_table(pa.Table.from_pylist(rows), path / "ranks.parquet")
        return finish_artifact(
            path, "evaluation", parents=parents, extra={"beam_width": 64, "bootstrap_samples": 100, "seed": 7}
        )

    def publish(
        self,
        inputs: dict[str, Path],
        store: Path | str | None = None,
        out: str = "bundle",
        config: PublishingConfig | None = None,
        night: Night | None = None,
    ) -> StageReport:
        return run(
            **inputs,
            out=self.root / out,
            config=config or PublishingConfig(),
            seed=7,
            store=str(store) if store else None,
            night=str(night) if night else None,
        )


class Days:
    """A clock that a test moves by days."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.today = datetime(2026, 1, 1, 3, tzinfo=UTC)
        for module in (history, retention):
            monkeypatch.setattr(module, "now", lambda: self.today)

    def pass_by(self, days: float) -> None:
        self.today += timedelta(days=days)
