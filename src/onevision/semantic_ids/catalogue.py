"""The catalogue as the generator sees it: items, their semantic IDs, buckets and embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from onevision.artifacts import Artifact, open_artifact
from onevision.semantic_ids.published import sid_array
from onevision.semantic_ids.trie import Trie


@dataclass
class Catalogue:
    """A `semantic_ids` artifact in memory; an item's number is its row everywhere.

    Attributes:
        item_ids: I keys, sorted.
        codes: (I, L) int16 semantic IDs; bucket: (I,) leaf number of each item.
        bucket_offsets, bucket_items: items of bucket b are `bucket_items[bucket_offsets[b]:bucket_offsets[b + 1]]`.
        embedding: (I, d), unit length.
        view_embedding (V, d), view_item (V,): every catalogue view.
        table: `items.parquet`.
    """

    artifact: Artifact
    item_ids: list[str]
    codes: NDArray[np.int16]
    bucket: NDArray[np.int64]
    bucket_offsets: NDArray[np.int64]
    bucket_items: NDArray[np.int64]
    embedding: NDArray[np.float32]
    view_embedding: NDArray[np.float32]
    view_item: NDArray[np.int64]
    trie: Trie
    table: pa.Table

    @classmethod
    def open(cls, path: Path) -> Catalogue:
        """Read a `semantic_ids` artifact."""
        artifact = open_artifact(path, "semantic_ids")
        table = pq.read_table(artifact.file("items.parquet"))
        arrays = load_file(artifact.file("item_embeddings.safetensors"))
        codes = sid_array(table["sid"])
        bucket = table["bucket"].to_numpy().astype(np.int64)
        counts = np.bincount(bucket)
        return cls(
            artifact,
            table["item_id"].to_pylist(),
            codes,
            bucket,
            np.r_[0, counts.cumsum()],
            np.argsort(bucket, kind="stable"),
            arrays["embedding"],
            arrays["view_embedding"],
            arrays["view_item"],
            Trie.load(artifact.file("trie.safetensors")),
            table,
        )

    def numbers(self) -> dict[str, int]:
        """Item id -> item number."""
        return {item: n for n, item in enumerate(self.item_ids)}

    def entered(self, items: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the items (Q, C), -1 for none, were in the shop at `ts` (Q,), in microseconds since 1970.

        Whoever asks searches of the past what was chosen among must leave out what came later: nobody could choose it.
        """
        created = np.r_[self.created, np.iinfo(np.int64).max]
        there: NDArray[np.bool_] = created[items] <= ts[:, None]
        return there

    @cached_property
    def created(self) -> NDArray[np.int64]:
        """(I,) when each item entered the shop, microseconds since 1970, UTC."""
        created: NDArray[np.int64] = self.table["created_at"].cast("int64").to_numpy()
        return created
