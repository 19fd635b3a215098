"""Stage `assign-ids` on real artifacts of the tiny shop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.models import make_models

from onevision.artifacts import open_artifact
from onevision.report import StageReport
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.stage import run


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


def assign_ids(models: dict[str, Path], out: Path, **more: object) -> StageReport:
    inputs = {name: models[name] for name in ("snapshot", "encoder", "quantizer")}
    config = SemanticIdsConfig(**{name: more.pop(name) for name in ("capacity",) if name in more})  # type: ignore[arg-type]
    return run(**inputs, **more, out=out, config=config, seed=0)  # type: ignore[arg-type]


def sids(artifact: Path) -> dict[str, tuple[int, ...]]:
    table = pq.read_table(artifact / "items.parquet")
    return dict(zip(table["item_id"].to_pylist(), map(tuple, table["sid"].to_pylist()), strict=True))


def test_capacity_thins_the_buckets_and_the_report_counts_who_moved(models: dict[str, Path], tmp_path: Path) -> None:
    shared, report = sids(models["semantic_ids"]), assign_ids(models, tmp_path, capacity=2)
    limited = sids(tmp_path)
    assert max(np.unique(list(shared.values()), axis=0, return_counts=True)[1]) > 2
    assert max(np.unique(list(limited.values()), axis=0, return_counts=True)[1]) == 2
    moved = {item for item in shared if shared[item] != limited[item]}
    assert report.counts["items_moved_for_capacity"] == len(moved)
    beyond = [item for item in moved if shared[item][:-1] != limited[item][:-1]]
    assert report.counts["items_moved_out_of_a_full_prefix"] == len(beyond)
    assert bool(report.warnings) == bool(beyond)
    assert open_artifact(tmp_path).counts == report.counts
