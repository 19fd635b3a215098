"""Stage `assign-ids` on real artifacts of the tiny shop."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from support.models import make_models
from support.snapshots import make_snapshot, make_tables, save_snapshot

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.errors import ArtifactError
from onevision.report import StageReport
from onevision.runner import run_stage
from onevision.semantic_ids import shards
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.published import GONE
from onevision.semantic_ids.shards import find_views
from onevision.semantic_ids.stage import run, run_merge
from onevision.shards import all_shards


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    make_snapshot(folder / "another", seed=1)
    return make_models(tiny_snapshot, folder) | {"another_snapshot": folder / "another"}


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


def parent_of(models: dict[str, Path], path: Path, ids: dict[str, tuple[int, ...]]) -> Path:
    """An earlier artifact of the same codebooks that knows these items under these IDs."""
    start_artifact(path)
    for name, chosen in (("items.parquet", ids), (GONE, {"left-before": (3, 3)})):
        pq.write_table(pa.table({"item_id": list(chosen), "sid": list(map(list, chosen.values()))}), path / name)
    generation = open_artifact(models["quantizer"]).generation
    finish_artifact(path, "semantic_ids", generation=generation)
    return path


@pytest.mark.parametrize("capacity", [None, 2])
def test_published_items_keep_their_ids_and_only_new_ones_are_assigned(
    models: dict[str, Path], tmp_path: Path, capacity: int | None
) -> None:
    fresh = sids(models["semantic_ids"])
    names = sorted(fresh)
    # Not what their pictures say today, more on one ID than the capacity, and one item that has left since.
    old = dict.fromkeys(names[:5], (1, 2)) | {"sold-out": (0, 1)}
    parent = parent_of(models, tmp_path / "parent", old)
    report = assign_ids(models, tmp_path / "out", parent=parent, capacity=capacity)
    now = sids(tmp_path / "out")
    assert {item: now[item] for item in names[:5]} == dict.fromkeys(names[:5], (1, 2))
    if capacity is None:
        assert {item: now[item] for item in names[5:]} == {item: fresh[item] for item in names[5:]}
    else:
        held = Counter(old.values()) + Counter([(3, 3)])
        for sid, count in Counter(now[item] for item in names[5:]).items():
            assert count <= max(capacity - held[sid], 0)
    gone = pq.read_table(tmp_path / "out" / GONE).to_pylist()
    assert gone == [{"item_id": "left-before", "sid": [3, 3]}, {"item_id": "sold-out", "sid": [0, 1]}]
    assert (report.counts["items_new"], report.counts["items_gone"]) == (len(names) - 5, 2)
    made = open_artifact(tmp_path / "out")
    assert made.parents["parent"] == open_artifact(parent).identity


def test_an_item_that_comes_back_gets_its_old_id(models: dict[str, Path], tmp_path: Path) -> None:
    name = min(sids(models["semantic_ids"]))
    absent = parent_of(models, tmp_path / "parent", {"sold-out": (0, 1)})
    pq.write_table(pa.table({"item_id": [name], "sid": [[2, 2]]}), absent / GONE)
    generation = open_artifact(models["quantizer"]).generation
    finish_artifact(absent, "semantic_ids", generation=generation)
    report = assign_ids(models, tmp_path / "out", parent=absent)
    assert sids(tmp_path / "out")[name] == (2, 2)
    assert report.counts["items_gone"] == 1


def test_a_chain_of_appends_changes_nothing_where_nothing_is_new(models: dict[str, Path], tmp_path: Path) -> None:
    assign_ids(models, tmp_path / "a", parent=models["semantic_ids"])
    assert sids(tmp_path / "a") == sids(models["semantic_ids"])
    for name in ("items.parquet", "trie.safetensors", "item_embeddings.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (models["semantic_ids"] / name).read_bytes()


def test_a_parent_of_other_codebooks_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    parent = parent_of(models, tmp_path / "parent", {"i000": (0, 0)})
    finish_artifact(parent, "semantic_ids", generation="another")
    with pytest.raises(ArtifactError, match="different generations"):
        assign_ids(models, tmp_path / "out", parent=parent)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("capacity", [None, 2])
def test_shards_give_the_same_bytes_whatever_their_number(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, capacity: int | None
) -> None:
    monkeypatch.setattr(shards, "ITEMS_A_BLOCK", 5)
    whole, out = tmp_path / "whole", tmp_path / "out"
    parent = parent_of(models, tmp_path / "parent", {"i003": (1, 2), "sold-out": (0, 1)})
    assign_ids(models, whole, parent=parent, capacity=capacity)
    inputs = {name: models[name] for name in ("snapshot", "encoder", "quantizer")}
    config = SemanticIdsConfig(capacity=capacity)
    parts = [tmp_path / str(number) for number in range(count)]
    for path, shard in zip(parts, all_shards(count), strict=True):
        shards.run_shard(**inputs, out=path, config=config, seed=0, shard=shard)
    report = run_merge(**inputs, shards=parts[::-1], out=out, config=config, seed=0, parent=parent)
    assert open_artifact(out).identity == open_artifact(whole).identity
    assert report.counts == open_artifact(whole).counts
    assert not any(part.name == "shard" for part in whole.iterdir())


@pytest.fixture(scope="module")
def shuffled(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same shop and embeddings with the rows of every table in another order."""
    folder, rng = tmp_path_factory.mktemp("shuffled"), np.random.default_rng(0)
    tables, images = make_tables()
    mixed = {name: table.take(rng.permutation(len(table))) for name, table in tables.items()}
    save_snapshot(folder / "snapshot", mixed, images)
    encoder = shutil.copytree(models["encoder"], folder / "encoder")
    (encoder / "manifest.json").unlink()
    pictures = pq.read_table(encoder / "images.parquet")
    order = rng.permutation(len(pictures))
    pq.write_table(pictures.take(order), encoder / "images.parquet")
    for name in ("embeddings.safetensors", "tokens.safetensors"):
        save_file({key: array[order] for key, array in load_file(encoder / name).items()}, encoder / name)
    finish_artifact(encoder, "encoder")
    return models | {"snapshot": folder / "snapshot", "encoder": encoder}


@pytest.mark.parametrize("count", [1, 3])
def test_the_order_of_rows_changes_nothing(
    models: dict[str, Path],
    shuffled: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr(shards, "ITEMS_A_BLOCK", 5)
    inputs = {name: shuffled[name] for name in ("snapshot", "encoder", "quantizer")}
    parts = [tmp_path / str(number) for number in range(count)]
    for path, shard in zip(parts, all_shards(count), strict=True):
        shards.run_shard(**inputs, out=path, config=SemanticIdsConfig(), seed=0, shard=shard)
    run_merge(**inputs, shards=parts, out=tmp_path / "out", config=SemanticIdsConfig(), seed=0)
    assign_ids(models, tmp_path / "plain")
    for name in ("items.parquet", "item_embeddings.safetensors", "trie.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


def test_shards_that_do_not_make_a_whole_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    inputs = {name: models[name] for name in ("snapshot", "encoder", "quantizer")}
    for number in (1, 2):
        run_stage("assign-shard", inputs, tmp_path / str(number), recipe="smoke", parameters={"shard": f"{number}/3"})
    given = {"shards": [tmp_path / "1", tmp_path / "2"]}
    with pytest.raises(ArtifactError, match="are the shards 1/3, 2/3; wanted are 1/3, 2/3, 3/3"):
        run_stage("merge-ids", inputs | given, tmp_path / "out", recipe="smoke")
    run_stage("assign-shard", inputs, tmp_path / "a", recipe="smoke")
    other = {"encoder": models["encoder"], "quantizer": models["quantizer"], "snapshot": models["another_snapshot"]}
    with pytest.raises(ArtifactError, match="from other inputs"):
        run_stage("merge-ids", other | {"shards": [tmp_path / "a"]}, tmp_path / "out", recipe="smoke")


def test_the_command_line_takes_a_parent(models: dict[str, Path], tmp_path: Path) -> None:
    inputs: dict[str, Path | str] = {name: models[name] for name in ("snapshot", "encoder", "quantizer")}
    report = run_stage("assign-ids", inputs | {"parent": models["semantic_ids"]}, tmp_path / "b", recipe="smoke")
    assert report.counts["items_new"] == 0
    report = run_stage("assign-ids", inputs | {"parent": ""}, tmp_path / "c", recipe="smoke")
    assert report.counts["items_new"] == report.counts["items_assigned"]


def test_a_late_view_does_not_make_an_old_item_cold(tmp_path: Path) -> None:
    rows = [
        ("a-main", "a", "main", "train"),
        ("a-sku", "a", "sku", "catalogue_cold"),
        ("b-main", "b", "main", "catalogue_cold"),
        ("c-main", "c", "main", "unused"),
        ("c-photo", "c", "user_photo", "train"),
    ]
    names = ["image_id", "item_id", "view", "split"]
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), tmp_path / "images.parquet")
    views, cold = find_views(tmp_path / "images.parquet", pa.array(["a", "b", "c"]))
    assert cold.tolist() == [False, True, False]
    assert views.item.tolist() == [0, 0, 1, 2]
