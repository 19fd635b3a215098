"""Queries with everything that is known of them at their time: the picture, the user's sequences, and what followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from onevision.artifacts import open_artifact
from onevision.errors import ArtifactError
from onevision.features.definitions import UserSequences


@dataclass
class QuerySet:
    """Q queries, row by row.

    Attributes:
        ts: (Q,) int64, when each was asked, microseconds since 1970, UTC.
        image_row: (Q,) rows of the encoder's picture table; embedding (Q, d), category (Q, K), tokens (Q, T, C).
        recent_clicked, recent_searched, recent_ordered, long_history: item ids, newest first, all before the query.
        segment: the user's profile, None if unknown.
        clicked, carted, ordered, shown: item ids that followed, by time (shown: by position). Answer, never input.
        photographed: the item in the picture, None if unknown.
        cold_item, cold_user, personal: (Q,) bool, see docs/artifacts.md.
    """

    query_id: list[str]
    user_id: list[str]
    image_id: list[str]
    ts: NDArray[np.int64]
    image_row: NDArray[np.int64]
    embedding: NDArray[np.float32]
    category: NDArray[np.float16]
    tokens: NDArray[np.float16]
    recent_clicked: list[list[str]]
    recent_searched: list[list[str]]
    recent_ordered: list[list[str]]
    long_history: list[list[str]]
    segment: list[str | None]
    clicked: list[list[str]]
    carted: list[list[str]]
    ordered: list[list[str]]
    shown: list[list[str]]
    photographed: list[str | None]
    cold_item: NDArray[np.bool_]
    cold_user: NDArray[np.bool_]
    personal: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.query_id)

    @classmethod
    def load(
        cls,
        pairs: Path,
        encoder: Path,
        features: Path,
        *,
        split: str,
        limit: int | None = None,
        clicked_only: bool = True,
    ) -> QuerySet:
        """Read the queries of a split (train, validation, test) from three artifacts.

        Args:
            limit: keep the newest ones only.
            clicked_only: leave out queries that nobody clicked on: they say nothing of relevance.
        """
        queries = pq.read_table(open_artifact(pairs, "pairs").file("queries.parquet"))
        sequences = pq.read_table(open_artifact(features, "features").file("training_sequences.parquet"))
        if sequences["query_id"].to_pylist() != queries["query_id"].to_pylist():
            raise ArtifactError(f"{features}: its sequences belong to other queries than {pairs}; run the stage again")
        encoder_path = open_artifact(encoder, "encoder", verify=False).path
        images = pq.read_table(encoder_path / "images.parquet", columns=["image_id"])["image_id"].to_pylist()
        row_of = {image: row for row, image in enumerate(images)}
        clicks = queries["clicked"].to_pylist()
        keep = [
            n
            for n, (s, c) in enumerate(zip(queries["split"].to_pylist(), clicks, strict=True))
            if s == split and (c or not clicked_only)
        ]
        newest = sorted(keep, key=lambda n: (queries["ts"][n].as_py(), queries["query_id"][n].as_py()))
        chosen = np.array(newest[-limit:] if limit else newest, dtype=np.int64)
        table = {name: queries[name].take(chosen).to_pylist() for name in queries.column_names}
        history = {name: sequences[name].take(chosen).to_pylist() for name in sequences.column_names}
        rows = np.array([row_of[image] for image in table["image_id"]], dtype=np.int64)
        arrays = load_file(encoder_path / "embeddings.safetensors")
        tokens = load_file(encoder_path / "tokens.safetensors")["tokens"]
        return cls(
            query_id=table["query_id"],
            user_id=table["user_id"],
            image_id=table["image_id"],
            ts=queries["ts"].take(chosen).cast("int64").to_numpy(),
            image_row=rows,
            embedding=arrays["embedding"][rows],
            category=arrays["category"][rows],
            tokens=tokens[rows],
            recent_clicked=history["recent_clicked"],
            recent_searched=history["recent_searched"],
            recent_ordered=history["recent_ordered"],
            long_history=history["long_history"],
            segment=history["segment"],
            clicked=table["clicked"],
            carted=table["carted"],
            ordered=table["ordered"],
            shown=table["shown"],
            photographed=table["photographed_item"],
            cold_item=np.array(table["cold_item"], dtype=bool),
            cold_user=np.array(table["cold_user"], dtype=bool),
            personal=np.array(table["personal"], dtype=bool),
        )

    @classmethod
    def asked_now(
        cls,
        embedding: NDArray[np.float32],
        category: NDArray[np.float16],
        tokens: NDArray[np.float16],
        users: Sequence[UserSequences],
    ) -> QuerySet:
        """Queries of this moment, as the encoder saw them (`embedding`, ...), of users whose sequences are known."""
        count = len(users)
        return cls(
            query_id=[str(row) for row in range(count)],
            user_id=[""] * count,
            image_id=[""] * count,
            ts=np.full(count, time.time_ns() // 1000),
            image_row=np.full(count, -1, dtype=np.int64),
            embedding=embedding,
            category=category,
            tokens=tokens,
            recent_clicked=[user.recent_clicked for user in users],
            recent_searched=[user.recent_searched for user in users],
            recent_ordered=[user.recent_ordered for user in users],
            long_history=[user.long_history for user in users],
            segment=[user.segment for user in users],
            clicked=[[] for _ in users],
            carted=[[] for _ in users],
            ordered=[[] for _ in users],
            shown=[[] for _ in users],
            photographed=[None] * count,
            cold_item=np.zeros(count, dtype=bool),
            cold_user=np.array([user == UserSequences() for user in users], dtype=bool),
            personal=np.zeros(count, dtype=bool),
        )

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> QuerySet:
        """The queries of these rows."""
        index = np.asarray(rows, dtype=np.int64)
        values: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            values[f.name] = value[index] if isinstance(value, np.ndarray) else [value[i] for i in index]
        return QuerySet(**values)

    def with_histories_of(self, rows: NDArray[np.integer]) -> QuerySet:
        """The same queries with the histories and profiles of other rows: the control for personalisation."""
        other = self.take(rows)
        mine = self.take(np.arange(len(self)))
        for name in ("recent_clicked", "recent_searched", "recent_ordered", "long_history", "segment"):
            setattr(mine, name, getattr(other, name))
        return mine
