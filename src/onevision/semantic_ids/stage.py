"""Stage `assign-ids`: a semantic ID for every item with a catalogue picture, buckets and the trie.

The work of an item is in `shards.py`; here shards are put together. `assign-ids` makes one shard of everything in its
own process, `merge-ids` takes shards that were made apart; both write the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.arrays import concatenate_files, map_arrays
from onevision.artifacts import Artifact, finish_artifact, open_artifact, start_artifact, write_json
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.errors import ArtifactError, OneVisionError
from onevision.metrics.encoding import encoding_metrics
from onevision.quantization.residual import ResidualQuantizer
from onevision.report import ReportTable, StageReport
from onevision.semantic_ids.assign import mean_vectors
from onevision.semantic_ids.capacity import limit_buckets
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.prefix_sheet import prefix_sheet
from onevision.semantic_ids.published import GONE, Published, sid_array, sid_column
from onevision.semantic_ids.shards import ARRAYS, ITEMS, KIND, UNASSIGNED, VOTES, run_shard
from onevision.semantic_ids.trie import Trie
from onevision.shards import open_shards, write_tables

WORK = "shard"
INPUTS = ("snapshot", "encoder", "quantizer")


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
    inputs = zip(INPUTS, (snapshot, encoder, quantizer), strict=True)
    parents = {name: open_artifact(path, name) for name, path in inputs}
    start_artifact(out)
    run_shard(snapshot=snapshot, encoder=encoder, quantizer=quantizer, out=out / WORK, config=config, seed=seed)
    return _merge("assign-ids", parents, open_shards([out / WORK], KIND), out, config, parent)


def run_merge(
    *,
    snapshot: Path,
    encoder: Path,
    quantizer: Path,
    shards: Sequence[Path],
    out: Path,
    config: SemanticIdsConfig,
    seed: int,
    parent: Path | None = None,
) -> StageReport:
    """Put shards together: what `run` does after its own; `seed` is not used."""
    del seed
    inputs = zip(INPUTS, (snapshot, encoder, quantizer), strict=True)
    parents = {name: open_artifact(path, name, verify=False) for name, path in inputs}
    parts = open_shards(shards, KIND)
    if parts[0].parents != {name: artifact.identity for name, artifact in parents.items()}:
        raise ArtifactError(f"{parts[0].path}: this shard was assigned from other inputs than those given beside it")
    return _merge("merge-ids", parents, parts, start_artifact(out), config, parent)


def _merge(
    stage: str,
    parents: dict[str, Artifact],
    shards: list[Artifact],
    out: Path,
    config: SemanticIdsConfig,
    parent: Path | None,
) -> StageReport:
    """Buckets, capacity and trie over all shards; their arrays are copied in constant memory."""
    model = ResidualQuantizer.from_pretrained(parents["quantizer"].path)
    sizes = model.codebook_sizes
    published = Published.none(len(sizes))
    if parent:
        parents = parents | {"parent": open_artifact(parent, "semantic_ids")}
        published = Published.open(parents["parent"], parents["quantizer"])
    shards_with_items = [shard for shard in shards if shard.counts["items_assigned"]]
    if not shards_with_items:
        raise OneVisionError(
            f"{parents['snapshot'].path}: no catalogue picture (view {' or '.join(CATALOGUE_VIEWS)}) of any item"
        )
    keys = pa.concat_tables(pq.read_table(s.file(ITEMS), columns=["item_id", "sid"]) for s in shards_with_items)
    item_ids, codes = keys["item_id"].combine_chunks(), sid_array(keys["sid"]).copy()
    known = published.rows(item_ids)
    new = np.flatnonzero(known < 0)
    codes[known >= 0] = published.codes[known[known >= 0]]
    changed = np.full(len(new), len(sizes))
    if config.capacity:
        views = _ShardViews(shards_with_items, model)
        codes[new], changed = limit_buckets(
            model, codes[new], lambda rows: views.positions(new[rows]), config.capacity, published.codes
        )
    trie, bucket = Trie.build(codes)
    trie.save(out / "trie.safetensors")
    write_json(out / "trie.json", {"codebook_sizes": list(sizes), "leaves": trie.leaves})
    counts = {name: sum(shard.counts[name] for shard in shards) for name in shards[0].counts}
    counts["items_without_pictures"] = counts["items_in"] - counts["items_assigned"]
    counts |= {"items_new": len(new), "items_gone": published.write_gone(item_ids, out / GONE)}
    _write_items(shards_with_items, codes, bucket, out / ITEMS)
    write_tables(out / UNASSIGNED, (pq.read_table(shard.file(UNASSIGNED)) for shard in shards))
    concatenate_files(
        [shard.file(ARRAYS) for shard in shards_with_items], out / ARRAYS, numbers={"view_item": "embedding"}
    )
    shutil.rmtree(out / WORK, ignore_errors=True)
    report = _report(stage, model, codes, bucket, changed, pq.read_table(out / ITEMS), counts)
    if codes.shape[1] > 1:
        shop = Snapshot.open(parents["snapshot"].path, verify=False)
        report.figures.append(prefix_sheet(shop, item_ids.to_pylist(), codes))
    finish_artifact(out, "semantic_ids", parents=parents, counts=report.counts)
    return report


class _ShardViews:
    """Mean projections of items by their numbers over all shards, read when capacity asks for them."""

    def __init__(self, shards: list[Artifact], quantizer: ResidualQuantizer) -> None:
        self.quantizer = quantizer
        self.arrays = [map_arrays(shard.file(ARRAYS)) | map_arrays(shard.file(VOTES)) for shard in shards]
        self.first = np.cumsum([0, *(len(arrays["embedding"]) for arrays in self.arrays)])

    def positions(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `capacity.Positions`; `items` ascend."""
        found = []
        for arrays, first, last in zip(self.arrays, self.first[:-1], self.first[1:], strict=True):
            own = items[(items >= first) & (items < last)] - first
            bounds = np.searchsorted(arrays["view_item"], [own, own + 1])
            for low, high in bounds.T:
                one = np.zeros(high - low, np.int64)
                found.append(mean_vectors(arrays["view_embedding"][low:high], one, arrays["vote"][low:high]))
        return np.concatenate(found)


def _write_items(shards: list[Artifact], codes: NDArray[np.int16], bucket: NDArray[np.int64], path: Path) -> None:
    bounds = np.cumsum([0, *(shard.counts["items_assigned"] for shard in shards)])

    def tables() -> Iterator[pa.Table]:
        for shard, low, high in zip(shards, bounds[:-1], bounds[1:], strict=True):
            table = pq.read_table(shard.file(ITEMS)).drop_columns("sid")
            table = table.add_column(1, "sid", sid_column(codes[low:high]))
            yield table.add_column(2, "bucket", pa.array(bucket[low:high], pa.int32()))

    write_tables(path, tables())


def _report(
    stage: str,
    model: ResidualQuantizer,
    codes: NDArray[np.int16],
    bucket: NDArray[np.int64],
    changed: NDArray[np.int64],
    table: pa.Table,
    counts: dict[str, int],
) -> StageReport:
    metrics = encoding_metrics(codes, model.codebook_sizes, table["category_id"].to_pylist())
    sizes = np.bincount(np.bincount(bucket))
    rows = [[n, int(count)] for n, count in enumerate(sizes) if n and count]
    last = len(model.codebook_sizes) - 1
    beyond = int((changed < last).sum())
    return StageReport(
        stage,
        counts=counts
        | {
            "items_cold": int(pc.sum(table["cold"]).as_py() or 0),
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
