"""Proof that the held-out queries are held out: no test query or photo, and no item of those days, was trained on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import read_json
from onevision.errors import ArtifactError


def check_leakage(
    pairs: Path, query_ids: Collection[str], image_ids: Collection[str], cold_items: Collection[str]
) -> dict[str, int]:
    """Look for held-out things among what was trained on.

    Args:
        pairs: the `pairs` artifact that the generator was trained with; so were encoder and quantiser, but for those
            that a night has from the champion, which are older.
        query_ids, image_ids: of the queries that are about to be measured.
        cold_items: items that entered after the end of training.

    Returns:
        things looked at, `leakage_<check>_checked`.

    Raises:
        ArtifactError: something leaked; the message names it.
    """
    queries = pq.read_table(pairs / "queries.parquet", columns=["query_id", "image_id", "ts", "split"])
    image_pairs = pq.read_table(pairs / "image_pairs.parquet", columns=["image_a", "image_b", "item_a", "item_b"])
    image_splits = pq.read_table(pairs / "image_splits.parquet")
    bounds = read_json(pairs / "splits.json")
    train = queries.filter(pc.equal(queries["split"], "train"))
    trained_images = image_splits.filter(pc.equal(image_splits["split"], "train"))
    late = train.filter(pc.greater_equal(train["ts"], _time(bounds["train_end"], train)))
    _require_none(late["query_id"].to_pylist(), "training queries at or after train_end")
    _require_apart(query_ids, train["query_id"], "test queries among the training queries")
    _require_apart(image_ids, train["image_id"], "test photos in training queries")
    _require_apart(image_ids, trained_images["image_id"], "test photos in the training split of pictures")
    for column in ("image_a", "image_b"):
        _require_apart(image_ids, image_pairs[column], "test photos in training pairs")
    for column in ("item_a", "item_b"):
        _require_apart(cold_items, image_pairs[column], "items of after train_end in training pairs")
    return {
        "leakage_test_queries_checked": len(query_ids),
        "leakage_training_queries_checked": train.num_rows,
        "leakage_training_pictures_checked": trained_images.num_rows,
        "leakage_training_pairs_checked": image_pairs.num_rows,
    }


def _time(text: str, table: pa.Table) -> pa.Scalar:
    return pa.scalar(text).cast(pa.timestamp("us", tz="UTC")).cast(table["ts"].type)


def _require_apart(held_out: Collection[str], trained: pa.ChunkedArray, what: str) -> None:
    held = pa.array(sorted(held_out), pa.string())
    _require_none(held.filter(pc.is_in(held, value_set=trained.combine_chunks())).to_pylist(), what)


def _require_none(found: list[str], what: str) -> None:
    if found:
        raise ArtifactError(f"leakage: {len(found)} {what}, such as {found[0]!r}; run `pair` and what follows again")
