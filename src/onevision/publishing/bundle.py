"""The bundle: everything that serving needs, of one generation of codebooks, as one artifact.

Its parts are whole artifacts in folders of their names, without the files that only training reads. A part keeps
the identity of the artifact it was taken from, so that the bundle's parents tell whether the parts belong together.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import MANIFEST, REPORTS, Artifact, copy_tree, open_artifact, read_json, write_json
from onevision.data.snapshot import Snapshot
from onevision.errors import ArtifactError

BUNDLE_KIND = "bundle"
PARTS = {
    "encoder": "encoder",
    "quantizer": "quantizer",
    "semantic_ids": "semantic_ids",
    "generator": "generator",
    "pruning": "pruning",
}
"""Folder in the bundle -> kind of artifact."""
TRAINING_ONLY = {
    "encoder": ("embeddings.safetensors", "tokens.safetensors", "images.parquet"),
    "quantizer": ("metrics.json",),
    "semantic_ids": ("unassigned.parquet",),
    "generator": ("history.json", "training.tfevents", "reference.parquet"),
    "pruning": ("pareto.json",),
}
CATALOGUE = "catalogue.parquet"
"""Row by row as `semantic_ids/items.parquet`: `item_id, title, brand, category` (its name), for what people see."""
METRICS, DECISION, MODEL_CARD = "metrics.json", "decision.json", "model_card.md"


def copy_part(artifact: Artifact, target: Path) -> None:
    """Link an artifact's files into a bundle, without its reports and what only training reads."""
    name = target.name
    copy_tree(artifact.path, target)
    dropped = TRAINING_ONLY.get(name, ())
    for file in (*dropped, *REPORTS):
        (target / file).unlink(missing_ok=True)
    manifest = read_json(target / MANIFEST)
    manifest["files"] = {file: entry for file, entry in manifest["files"].items() if file not in dropped}
    write_json(target / MANIFEST, manifest)


def write_catalogue(shop: Snapshot, semantic_ids: Artifact, path: Path) -> None:
    """Write what a shopper is shown of every item, in the row order of the semantic IDs."""
    ids = pq.read_table(semantic_ids.file("items.parquet"), columns=["item_id", "category_id"])
    items, categories = shop.table("items"), shop.table("categories")
    place = pc.index_in(ids["item_id"].combine_chunks(), items["item_id"].combine_chunks())
    if place.null_count:
        missing = ids["item_id"].combine_chunks().filter(pc.is_null(place))[0].as_py()
        raise ArtifactError(
            f"{semantic_ids.path}: item {missing!r} is not in the snapshot {shop.path}; publish takes the snapshot "
            "that the semantic IDs were assigned from"
        )
    leaf = pc.index_in(ids["category_id"].combine_chunks(), categories["category_id"].combine_chunks())
    columns = {
        "item_id": ids["item_id"],
        "title": items["title"].take(place),
        "brand": items["brand"].take(place),
        "category": categories["name"].take(leaf),
    }
    pq.write_table(pa.table(columns), path)


def open_bundle(path: Path) -> tuple[Artifact, dict[str, Artifact]]:
    """Verify a bundle and its parts.

    Returns:
        the bundle, and its parts by name.

    Raises:
        ArtifactError: half-written or altered, a part missing, from another artifact or of another generation.
    """
    bundle = open_artifact(path, BUNDLE_KIND)
    parts = {}
    for name, kind in PARTS.items():
        part = open_artifact(path / name, kind, verify=False)  # the bundle's manifest has checked every byte
        if part.identity != bundle.parents.get(name):
            raise ArtifactError(
                f"{part.path}: is artifact {part.identity}, the bundle was made with {bundle.parents.get(name)}; "
                "its parts were mixed. Publish again."
            )
        if part.generation not in (None, bundle.generation):
            raise ArtifactError(
                f"{part.path}: is of generation {part.generation}, the bundle of {bundle.generation}; "
                "they cannot be used together"
            )
        parts[name] = part
    return bundle, parts
