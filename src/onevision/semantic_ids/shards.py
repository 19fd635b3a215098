"""Stage `assign-shard`: voted codes and embeddings of one shard of the items, in the order of their ids.

An item's codes depend on its own views alone, so shards need nothing of each other; buckets, capacity and the trie
are the business of their merger (`stage.py`). Items are cut into blocks of `ITEMS_A_BLOCK` by id, and the vectors of
one block at a time are in memory beside the shard's table of views.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from onevision.arrays import ArrayWriter, Layout, map_arrays
from onevision.artifacts import finish_artifact, open_artifact, require_same_generation, start_artifact
from onevision.data.categories import CategoryTree
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.quantization.residual import ResidualQuantizer
from onevision.report import StageReport
from onevision.semantic_ids.assign import assign
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.published import sid_column
from onevision.shards import ROWS_A_BATCH, Shard

KIND = "id_shard"
ITEMS_A_BLOCK = 8192
ITEMS, UNASSIGNED, ARRAYS, VOTES = (
    "items.parquet",
    "unassigned.parquet",
    "item_embeddings.safetensors",
    "votes.safetensors",
)
COLUMNS = ["item_id", "category_id", "price", "in_stock", "created_at"]
UNASSIGNED_SCHEMA = pa.schema([("item_id", pa.string()), ("reason", pa.string())])


class Views(NamedTuple):
    """V catalogue views by item, then by picture.

    `row` in the encoder's tables; `item` the row of the shard's items that have views; `main` whether it is that view.
    """

    row: NDArray[np.int64]
    item: NDArray[np.int64]
    main: NDArray[np.bool_]


def run_shard(
    *,
    snapshot: Path,
    encoder: Path,
    quantizer: Path,
    out: Path,
    config: SemanticIdsConfig,
    seed: int,
    shard: str = "1/1",
) -> StageReport:
    """Assign codes to one shard of the items; `seed` is not used: nothing here is random.

    Checksums of the inputs are not compared: every shard would read all of them for it.

    Args:
        shard: such as `2/3`.
    """
    del seed
    part = Shard.parse(shard)
    shop = Snapshot.open(snapshot, verify=False)
    parents = {
        "snapshot": shop.artifact,
        "encoder": open_artifact(encoder, "encoder", verify=False),
        "quantizer": open_artifact(quantizer, "quantizer", verify=False),
    }
    require_same_generation(*parents.values())
    start_artifact(out)
    model = ResidualQuantizer.from_pretrained(quantizer)
    catalogue = pq.read_table(shop.path / ITEMS, columns=COLUMNS).sort_by("item_id").combine_chunks()
    rows = part.rows(len(catalogue), ITEMS_A_BLOCK)
    items = catalogue.slice(rows.start, len(rows))
    views, cold = find_views(parents["encoder"].file("images.parquet"), items["item_id"].combine_chunks())
    assigned, number = np.unique(views.item, return_inverse=True)
    table = _describe(items.take(pa.array(assigned)), cold[assigned], CategoryTree.from_table(shop.table("categories")))
    without = np.setdiff1d(np.arange(len(items)), assigned)
    _write_unassigned(items["item_id"].take(pa.array(without)), out / UNASSIGNED)
    embedding = map_arrays(parents["encoder"].file("embeddings.safetensors"))["embedding"]
    dim, outlying = embedding.shape[1], 0
    layout = {
        "embedding": Layout(np.dtype(np.float32), (len(assigned), dim)),
        "view_embedding": Layout(np.dtype(np.float32), (len(number), dim)),
        "view_item": Layout(np.dtype(np.int64), (len(number),)),
    }
    votes = {"vote": Layout(np.dtype(np.float32), (len(number),))}
    codes = np.empty((len(assigned), len(model.codebook_sizes)), np.int16)
    with ArrayWriter(out / ARRAYS, layout) as writer, ArrayWriter(out / VOTES, votes) as vote_writer:
        for own, seen in tqdm(list(_blocks(assigned, number)), desc="assign", disable=None):
            vectors = np.ascontiguousarray(embedding[views.row[seen]])
            block = assign(model, vectors, number[seen] - own.start, views.main[seen], config)
            codes[own] = block.codes
            outlying += int((block.vote == 0).sum())
            writer.write("embedding", own.start, block.embedding)
            writer.write("view_embedding", seen.start, vectors)
            writer.write("view_item", seen.start, number[seen])
            vote_writer.write("vote", seen.start, block.vote)
    pq.write_table(table.add_column(1, "sid", sid_column(codes)), out / ITEMS)
    counts = {
        "items_in": len(items),
        "items_assigned": len(assigned),
        "views_in": len(number),
        "views_outlying": outlying,
    }
    finish_artifact(out, KIND, parents=parents, counts=counts, extra={"shard": str(part)})
    return StageReport("assign-shard", counts=counts)


def find_views(images: Path, item_ids: pa.Array) -> tuple[Views, NDArray[np.bool_]]:
    """The catalogue views of some items, from one pass over the encoder's picture table.

    Returns:
        the views, with `item` as rows of `item_ids`, and whether each item is cold: none of its views could be trained
        on. One that came later, or that a held-out search was sent with, does not make an old item new.
    """
    found, first = [], 0
    late, trained = np.zeros(len(item_ids), bool), np.zeros(len(item_ids), bool)
    for batch in pq.ParquetFile(images).iter_batches(ROWS_A_BATCH, columns=["image_id", "item_id", "view", "split"]):
        item = pc.index_in(batch["item_id"], item_ids)
        known = pc.is_valid(item)
        chosen = pc.and_(known, pc.is_in(batch["view"], pa.array(CATALOGUE_VIEWS)))
        for which, split in ((late, "catalogue_cold"), (trained, "train")):
            which[item.filter(pc.and_(chosen, pc.equal(batch["split"], split))).to_numpy()] = True
        row = pa.array(np.arange(first, first + len(batch)))
        columns = [batch["image_id"], row, item, pc.equal(batch["view"], "main")]
        found.append(pa.table(columns, names=["image_id", "row", "item", "main"]).filter(chosen))
        first += len(batch)
    cold = late & ~trained
    if not found:
        return Views(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_)), cold
    table = pa.concat_tables(found).sort_by([("item", "ascending"), ("image_id", "ascending")])
    row, item, main = (table[name].to_numpy() for name in ("row", "item", "main"))
    return Views(row.astype(np.int64), item.astype(np.int64), main.astype(bool)), cold


def _blocks(assigned: NDArray[np.int64], number: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Items and views of every block that has any; a block is a range of `ITEMS_A_BLOCK` of the shard's items."""
    for block in np.unique(assigned // ITEMS_A_BLOCK):
        low, high = np.searchsorted(assigned, [block * ITEMS_A_BLOCK, (block + 1) * ITEMS_A_BLOCK]).tolist()
        first, last = np.searchsorted(number, [low, high]).tolist()
        yield slice(low, high), slice(first, last)


def _describe(items: pa.Table, cold: NDArray[np.bool_], tree: CategoryTree) -> pa.Table:
    department = [tree.department(category) for category in items["category_id"].to_pylist()]
    columns = {name: items[name] for name in ("item_id", "category_id")}
    columns |= {"department_id": pa.array(department, pa.string())}
    columns |= {name: items[name] for name in ("price", "in_stock", "created_at")}
    return pa.table(columns | {"cold": pa.array(cold)})


def _write_unassigned(item_ids: pa.ChunkedArray, path: Path) -> None:
    reason = pa.array(["no catalogue picture"] * len(item_ids), pa.string())
    pq.write_table(pa.table([item_ids, reason], schema=UNASSIGNED_SCHEMA), path)
