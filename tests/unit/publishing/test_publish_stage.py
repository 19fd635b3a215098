"""Stage `publish`: what is in a bundle, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.bundles import Shop

from onevision.artifacts import open_artifact, read_json
from onevision.errors import ArtifactError
from onevision.features.shared import Publication
from onevision.publishing import stage
from onevision.publishing.bundle import open_bundle

Files = Callable[[Path], dict[str, bytes]]


def test_bundle_holds_what_serving_needs_and_nothing_that_only_training_reads(shop: Shop) -> None:
    report = shop.publish(shop.inputs())
    bundle, parts = open_bundle(shop.root / "bundle")
    assert sorted(parts) == ["encoder", "generator", "pruning", "quantizer", "semantic_ids"]
    assert bundle.generation == "g1"
    assert bundle.extra["beam_width"] == 64
    names = {str(p.relative_to(bundle.path)) for p in bundle.path.rglob("*") if p.is_file()}
    assert {"metrics.json", "decision.json", "model_card.md", "catalogue.parquet"} <= names
    assert not {"encoder/tokens.safetensors", "generator/history.json"} & names
    assert report.counts["promoted"] == 1
    assert report.counts["bundle_files"] == len(names)


def test_the_aligned_generator_is_the_one_that_is_served(shop: Shop) -> None:
    shop.publish(shop.inputs(weights="w"))
    assert (shop.root / "bundle/generator/model.safetensors").read_text() == "wa"


def test_catalogue_follows_the_rows_of_the_semantic_ids(shop: Shop) -> None:
    shop.publish(shop.inputs())
    catalogue = pq.read_table(shop.root / "bundle/catalogue.parquet")
    items = pq.read_table(shop.root / "bundle/semantic_ids/items.parquet")
    assert catalogue["item_id"].to_pylist() == items["item_id"].to_pylist()
    first = catalogue.to_pylist()[5]
    assert first == {"item_id": "i005", "title": "item 5", "brand": "brand 2", "category": "category 1"}


def test_same_inputs_give_the_same_bytes(shop: Shop, files_of: Files) -> None:
    inputs = shop.inputs()
    shop.publish(inputs, out="one")
    shop.publish(inputs, out="two")
    assert files_of(shop.root / "one") == files_of(shop.root / "two")


def test_publishing_leaves_the_artifacts_it_links_to_whole(shop: Shop) -> None:
    inputs = shop.inputs()
    shop.publish(inputs)
    for path in inputs.values():
        open_artifact(path)
    assert "tokens.safetensors" in read_json(inputs["encoder"] / "manifest.json")["files"]


def test_a_weak_challenger_is_refused_with_the_rule_that_it_broke(shop: Shop) -> None:
    report = shop.publish(shop.inputs(hr=0.3))
    decision = read_json(shop.root / "bundle/decision.json")
    assert decision["promote"] is False
    assert report.counts["promoted"] == 0
    assert any("fails" in warning for warning in report.warnings)
    assert "Not promoted" in (shop.root / "bundle/model_card.md").read_text()


def test_model_card_says_data_figures_lineage_limits_and_the_way_back(shop: Shop) -> None:
    inputs = shop.inputs(hr=0.5)
    shop.publish(inputs)
    card = (shop.root / "bundle/model_card.md").read_text()
    for text in (
        "tiny-2026-01-13",
        "50.0 [",
        "generation of codebooks | `g1`",
        "## Limits",
        "onevision rollback",
        "24 items",
    ):
        assert text in card
    assert open_artifact(inputs["encoder"]).identity in card


def test_inputs_of_two_generations_are_refused(shop: Shop) -> None:
    inputs = shop.inputs()
    other = Shop(shop.snapshot.path, shop.root / "other").inputs(generation="g2")
    with pytest.raises(ArtifactError, match="different generations"):
        shop.publish(inputs | {"quantizer": other["quantizer"]})


def test_an_evaluation_of_another_generator_is_refused(shop: Shop) -> None:
    inputs = shop.inputs()
    other = Shop(shop.snapshot.path, shop.root / "other").inputs(weights="other")
    with pytest.raises(ArtifactError, match="judged by its own figures"):
        shop.publish(inputs | {"generator_aligned": other["generator_aligned"]})


@pytest.mark.parametrize(
    ("file", "message"),
    [("generator/model.safetensors", "differs|bytes"), ("generator/manifest.json", "differs|bytes")],
)
def test_an_altered_part_is_noticed(shop: Shop, file: str, message: str) -> None:
    shop.publish(shop.inputs())
    path = shop.root / "bundle" / file
    path.write_text("x" + path.read_text()[1:])
    with pytest.raises(ArtifactError, match=message):
        open_bundle(shop.root / "bundle")


def test_parts_of_two_bundles_are_not_mixed(shop: Shop) -> None:
    shop.publish(shop.inputs())
    manifest = read_json(shop.root / "bundle/manifest.json")
    manifest["parents"]["generator"] = "0" * 16
    (shop.root / "bundle/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="mixed"):
        open_bundle(shop.root / "bundle")


def test_a_half_written_bundle_is_no_bundle(shop: Shop) -> None:
    shop.publish(shop.inputs())
    (shop.root / "bundle/manifest.json").unlink()
    with pytest.raises(ArtifactError, match="did not finish"):
        open_bundle(shop.root / "bundle")


def test_the_shared_feature_store_is_filled_whatever_the_gate_says(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Path] = []

    def fill(features: Path) -> Publication:
        filled.append(features)
        return Publication("project", "2026-01-13T00:00:00+00:00", "identity")

    monkeypatch.setattr(stage, "publish_features", fill)
    monkeypatch.delenv("FEATURE_STORE", raising=False)
    inputs = shop.inputs(hr=0.3)
    shop.publish(inputs, shop.root / "store")
    assert filled == []
    monkeypatch.setenv("FEATURE_STORE", "production")
    shop.publish(inputs)
    assert filled == [], "a bundle that is only assembled changes nothing elsewhere"
    report = shop.publish(inputs, shop.root / "store")
    assert filled == [inputs["features"]]
    assert report.counts["promoted"] == 0
    assert "features of 2026-01-13" in report.tables[0].caption
