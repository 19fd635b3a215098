"""Items and semantic IDs, looked up in both directions and compared between two artifacts or bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import MANIFEST, Artifact, open_artifact, read_json, write_json
from onevision.errors import OneVisionError
from onevision.semantic_ids.published import sid_array

KIND = "semantic_ids"
MOVED, NEW, GONE = CHANGES = ("moved", "new", "gone")
DIFF_SCHEMA = pa.schema(
    [("item_id", pa.string()), ("change", pa.string()), *((n, pa.list_(pa.int16())) for n in ("old_sid", "new_sid"))]
)


def open_semantic_ids(path: Path) -> Artifact:
    """The `semantic_ids` artifact in a folder, or the one in a bundle's folder."""
    part = path / KIND
    return open_artifact(part if (part / MANIFEST).exists() else path, KIND)


def parse_sid(text: str) -> tuple[int, ...]:
    """`3-17-5` -> (3, 17, 5)."""
    try:
        return tuple(int(code) for code in text.split("-"))
    except ValueError:
        raise OneVisionError(f"semantic ID {text!r}: write its codes as 3-17-5") from None


def format_sid(sid: tuple[int, ...] | list[int]) -> str:
    """(3, 17, 5) -> `3-17-5`."""
    return "-".join(map(str, sid))


def sid_of(artifact: Artifact, item_id: str) -> tuple[int, ...]:
    """The semantic ID of an item; `OneVisionError` says what is known of one that has none."""
    file = artifact.file("items.parquet")
    found = pq.read_table(file, columns=["sid"], filters=[("item_id", "=", item_id)])
    if len(found):
        return tuple(found["sid"][0].as_py())
    gone = pq.read_table(artifact.file("gone.parquet"), filters=[("item_id", "=", item_id)])
    if len(gone):
        raise OneVisionError(f"{file}: item {item_id!r} is gone; it was {format_sid(gone['sid'][0].as_py())}")
    raise OneVisionError(f"{file}: no item {item_id!r}")


def items_of(artifact: Artifact, sid: tuple[int, ...]) -> list[str]:
    """The bucket of a semantic ID, by item id; empty if no item has it."""
    sizes = read_json(artifact.file("trie.json"))["codebook_sizes"]
    if len(sid) != len(sizes) or any(not 0 <= code < size for code, size in zip(sid, sizes, strict=True)):
        raise OneVisionError(
            f"semantic ID {format_sid(sid)}: the IDs of {artifact.path} have {len(sizes)} codes, below "
            f"{format_sid(sizes)}"
        )
    table = pq.read_table(artifact.file("items.parquet"), columns=["item_id", "sid"])
    rows = np.flatnonzero((sid_array(table["sid"]) == np.array(sid)).all(1))
    items: list[str] = table["item_id"].take(pa.array(rows)).to_pylist()
    return items


@dataclass(frozen=True)
class Diff:
    """What changed between two artifacts.

    `counts` has `moved`, `new`, `gone` and `kept`; `changes` a row for every item that was not kept, by item id:
    `item_id, change, old_sid, new_sid`.
    """

    old: Artifact
    new: Artifact
    counts: dict[str, int]
    changes: pa.Table

    def save(self, path: Path) -> None:
        """Write the changes as `.parquet`, or all of it as `.json`."""
        if path.suffix not in (".parquet", ".json"):
            raise OneVisionError(f"{path}: name a .parquet or a .json file")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(self.changes, path)
            return
        sides = {
            name: {"identity": side.identity, "generation": side.generation}
            for name, side in (("old", self.old), ("new", self.new))
        }
        write_json(path, sides | {"counts": self.counts, "changes": self.changes.to_pylist()})


def diff(old: Artifact, new: Artifact) -> Diff:
    """Compare the items of two `semantic_ids` artifacts by id."""
    columns = ["item_id", "sid"]
    before, after = (pq.read_table(a.file("items.parquet"), columns=columns).combine_chunks() for a in (old, new))
    old_ids, new_ids = (t["item_id"].combine_chunks() for t in (before, after))
    place = pc.index_in(new_ids, old_ids)
    both = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    old_row = place.fill_null(-1).to_numpy()[both]
    old_sids, new_sids = sid_array(before["sid"]), sid_array(after["sid"])
    if old_sids.shape[1] == new_sids.shape[1]:
        changed = (old_sids[old_row] != new_sids[both]).any(1)
    else:
        changed = np.ones(len(both), bool)
    moved = both[changed]
    added = np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False))
    gone = np.flatnonzero(pc.index_in(old_ids, new_ids).is_null().to_numpy(zero_copy_only=False))
    parts = [
        _changes(MOVED, after["item_id"].take(moved), before["sid"].take(old_row[changed]), after["sid"].take(moved)),
        _changes(NEW, after["item_id"].take(added), None, after["sid"].take(added)),
        _changes(GONE, before["item_id"].take(gone), before["sid"].take(gone), None),
    ]
    counts = {name: len(part) for name, part in zip(CHANGES, parts, strict=True)} | {"kept": len(both) - len(moved)}
    return Diff(old, new, counts, pa.concat_tables(parts).sort_by("item_id"))


def _changes(
    change: str, item_ids: pa.ChunkedArray, old: pa.ChunkedArray | None, new: pa.ChunkedArray | None
) -> pa.Table:
    rows = len(item_ids)
    nothing = pa.nulls(rows, DIFF_SCHEMA.field("old_sid").type)
    columns = [item_ids, pa.array([change] * rows, pa.string()), *(nothing if s is None else s for s in (old, new))]
    return pa.table(columns, names=DIFF_SCHEMA.names).cast(DIFF_SCHEMA)
