"""Embedding and assignment as loops of the local KFP runner: the same artifacts as in one process."""

from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local
from support.models import make_models

from onevision.recipe import load_recipe
from onevision.semantic_ids.stage import run as assign_ids
from onevision.shards import all_shards
from pipelines.local import print_put_back
from pipelines.tasks import assign_in_shards, embed_in_shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_loops_over_shards_make_what_one_process_makes(tiny_snapshot: Path, tmp_path: Path) -> None:
    paths = make_models(tiny_snapshot, tmp_path / "models")

    def artifact(name: str, kind: Any) -> Any:
        return dsl.importer(artifact_uri=str(paths[name]), artifact_class=kind).output

    @dsl.pipeline(name="shards")
    def in_shards(shards: list[str]) -> None:
        def outputs(component: Any, **inputs: Any) -> Any:
            return component(**inputs, recipe="smoke", overrides=[]).outputs

        snapshot = artifact("snapshot", dsl.Dataset)
        encoder, quantizer = artifact("encoder", dsl.Model), artifact("quantizer", dsl.Model)
        merged = embed_in_shards(
            outputs, shards, snapshot=snapshot, pairs=artifact("pairs", dsl.Dataset), encoder=encoder
        )
        assign_in_shards(outputs, shards, snapshot=snapshot, encoder=merged, quantizer=quantizer)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    with print_put_back():
        in_shards(shards=all_shards(2))
    (merged,) = tmp_path.glob("root/*/merge-embeddings/merged_encoder")
    for name in ("embeddings.safetensors", "tokens.safetensors", "images.parquet", "model.safetensors"):
        assert (merged / name).read_bytes() == (paths["encoder"] / name).read_bytes(), name
    (ids,) = tmp_path.glob("root/*/merge-ids/semantic_ids")
    whole = tmp_path / "whole"
    inputs = {name: paths[name] for name in ("snapshot", "quantizer")}
    assign_ids(**inputs, encoder=merged, out=whole, config=load_recipe("smoke").semantic_ids, seed=1)
    for name in (
        "items.parquet",
        "item_embeddings.safetensors",
        "trie.safetensors",
        "gone.parquet",
        "unassigned.parquet",
    ):
        assert (ids / name).read_bytes() == (whole / name).read_bytes(), name
    assert len(list(tmp_path.glob("root/*/for-loop-*/embed-shard/embedding_shard/manifest.json"))) == 2
