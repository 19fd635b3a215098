"""Stage `assign-ids`: a semantic ID for every item with a catalogue picture, buckets and the trie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact, write_json
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.errors import OneVisionError
from onevision.metrics.encoding import encoding_metrics
from onevision.quantization.residual import ResidualQuantizer
from onevision.quantization.stage import Embedded
from onevision.report import ReportTable, StageReport
from onevision.semantic_ids.assign import Assignment, assign, mean_projection
from onevision.semantic_ids.capacity import limit_buckets
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.published import GONE, Published, sid_column
from onevision.semantic_ids.trie import Trie


def run(
    *,
    snapshot: Path,
    encoder: Path,
    quantizer: Path,
    out: Path,
    config: SemanticIdsConfig,
    seed: int,
    parent: Path | None = None,
) -> StageReport:
    """Assign semantic IDs; see docs/artifacts.md for what is written. `seed` is not used: nothing here is random.

    Args:
        parent: an earlier `semantic_ids` artifact of these codebooks: its items keep their IDs, new ones are appended.
    """
    del seed
    shop = Snapshot.open(snapshot)
    parents = {
        "snapshot": shop.artifact,
        "encoder": open_artifact(encoder, "encoder"),
        "quantizer": open_artifact(quantizer, "quantizer"),
    }
    require_same_generation(*parents.values())
    if parent:
        parents["parent"] = open_artifact(parent, "semantic_ids")
    start_artifact(out)
    data = Embedded.load(shop, encoder)
    model = ResidualQuantizer.from_pretrained(quantizer)
    published = (
        Published.open(parents["parent"], parents["quantizer"]) if parent else Published.none(len(model.codebook_sizes))
    )
    owner, view = data.column("item_id"), data.column("view")
    rows = np.flatnonzero(np.isin(view, CATALOGUE_VIEWS) & (owner != None))  # noqa: E711
    if not len(rows):
        raise OneVisionError(f"{snapshot}: no catalogue picture (view {' or '.join(CATALOGUE_VIEWS)}) of any item")
    # By item, then by picture: neither depends on the order of the rows.
    rows = rows[np.lexsort((data.column("image_id")[rows].astype(str), owner[rows].astype(str)))]
    item_ids, view_item = np.unique(owner[rows].astype(str), return_inverse=True)
    views = data.embedding[rows]
    assignment = assign(model, views, view_item, view[rows] == "main", config)
    known = published.rows(pa.array(item_ids, pa.string()))
    codes, new = assignment.codes, np.flatnonzero(known < 0)
    codes[known >= 0] = published.codes[known[known >= 0]]
    changed = np.full(len(new), len(model.codebook_sizes))
    if config.capacity:

        def positions(items: NDArray[np.int64]) -> NDArray[np.float32]:
            own = np.flatnonzero(np.isin(view_item, new[items]))
            number = np.searchsorted(new[items], view_item[own])
            return mean_projection(model, views[own], number, view[rows[own]] == "main", config)

        codes[new], changed = limit_buckets(model, codes[new], positions, config.capacity, published.codes)
    trie, bucket = Trie.build(assignment.codes)
    trie.save(out / "trie.safetensors")
    write_json(out / "trie.json", {"codebook_sizes": list(model.codebook_sizes), "leaves": trie.leaves})
    cold = set(owner[data.column("split") == "catalogue_cold"])
    table = _items_table(shop, data, item_ids, assignment, bucket, cold)
    pq.write_table(table, out / "items.parquet")
    arrays = {"embedding": assignment.embedding, "view_embedding": views, "view_item": view_item}
    save_file(arrays, out / "item_embeddings.safetensors")
    without = sorted(set(shop.table("items")["item_id"].to_pylist()) - set(item_ids.tolist()))
    unassigned = pa.table(
        {"item_id": pa.array(without, pa.string()), "reason": ["no catalogue picture"] * len(without)}
    )
    pq.write_table(unassigned, out / "unassigned.parquet")
    counts = {
        "items_in": len(shop.table("items")),
        "items_assigned": len(item_ids),
        "items_new": len(new),
        "items_gone": published.write_gone(pa.array(item_ids, pa.string()), out / GONE),
        "items_without_pictures": len(without),
    }
    report = _report(model, assignment, bucket, changed, table, counts)
    finish_artifact(out, "semantic_ids", parents=parents, counts=report.counts)
    return report


def _items_table(
    shop: Snapshot,
    data: Embedded,
    item_ids: np.ndarray,
    assignment: Assignment,
    bucket: np.ndarray,
    cold: set[str],
) -> pa.Table:
    items = shop.table("items")
    position = {item: n for n, item in enumerate(items["item_id"].to_pylist())}
    chosen = items.take(pa.array([position[item] for item in item_ids.tolist()]))
    categories = chosen["category_id"].to_pylist()
    return pa.table(
        {
            "item_id": chosen["item_id"],
            "sid": sid_column(assignment.codes),
            "bucket": pa.array(bucket, pa.int32()),
            "category_id": chosen["category_id"],
            "department_id": pa.array([data.tree.department(c) for c in categories]),
            "price": chosen["price"],
            "in_stock": chosen["in_stock"],
            "cold": pa.array([item in cold for item in item_ids.tolist()]),
        }
    )


def _report(
    model: ResidualQuantizer,
    assignment: Assignment,
    bucket: np.ndarray,
    changed: np.ndarray,
    table: pa.Table,
    counts: dict[str, int],
) -> StageReport:
    metrics = encoding_metrics(assignment.codes, model.codebook_sizes, table["category_id"].to_pylist())
    sizes = np.bincount(np.bincount(bucket))
    rows = [[n, int(count)] for n, count in enumerate(sizes) if n and count]
    last = len(model.codebook_sizes) - 1
    beyond = int((changed < last).sum())
    return StageReport(
        "assign-ids",
        counts=counts
        | {
            "items_cold": int(pc.sum(table["cold"]).as_py() or 0),
            "views_in": len(assignment.outlier),
            "views_outlying": int(assignment.outlier.sum()),
            "semantic_ids": int(bucket.max()) + 1,
            "items_sharing_an_id": int((np.bincount(bucket)[bucket] > 1).sum()),
            "items_moved_for_capacity": int((changed <= last).sum()),
            "items_moved_out_of_a_full_prefix": beyond,
        },
        metrics=metrics,
        tables=[
            ReportTable(
                "Buckets", ["items in a bucket", "buckets"], rows, "Items that share an ID are told apart at read time."
            )
        ],
        warnings=[f"{beyond} items left a prefix that is full; larger codebooks would keep them with their like"]
        if beyond
        else [],
    )
