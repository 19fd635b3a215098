"""Snapshots: a dated copy of a shop as one artifact folder, its writer and its verifying reader.

snapshot = Snapshot.open("data/snapshot")        # or gs://bucket/prefix
snapshot.table("items"), snapshot.images.read("some-image-id"), snapshot.as_of
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from onevision.artifacts import (
    MANIFEST,
    REPORTS,
    UNFINISHED,
    Artifact,
    finish_artifact,
    open_artifact,
    read_json,
    start_artifact,
    write_json,
)
from onevision.data.contract import QUERY_VIEWS, SNAPSHOT_KIND, TABLES
from onevision.data.images import ImageStore, ImageStoreWriter
from onevision.data.tables import cast_table, check_schema, contract_table
from onevision.errors import ArtifactError, ContractError

if TYPE_CHECKING:
    import pandas as pd

IMAGES_FOLDER = "images"
_OWN_NAMES = {IMAGES_FOLDER, MANIFEST, UNFINISHED, *REPORTS, "quarantine", *(table.file for table in TABLES.values())}


def write_snapshot(
    out: Path,
    tables: Mapping[str, pa.Table | pd.DataFrame],
    images: Iterable[tuple[str, bytes]],
    *,
    snapshot_id: str,
    source: str,
    as_of: datetime,
    extra: dict[str, Any] | None = None,
    extra_files: Mapping[str, pa.Table | dict[str, Any]] | None = None,
) -> Artifact:
    """Write a snapshot: the contract's tables, the pictures, further files, and the manifest last.

    Args:
        out: folder to write; an earlier snapshot there is replaced, any other content is refused.
        tables: table name -> rows; only tables that are not required may be left out (they are written empty).
        images: (image_id, bytes) in the order to store them.
        as_of: the snapshot's date; no event is later. Without a time zone it is UTC.
        extra: further keys for the manifest; `query_images` is worked out where it is not given.
        extra_files: name inside the folder -> table (`.parquet`) or JSON object (`.json`).

    Raises:
        ContractError: a table, column or row that does not fit the contract.
    """
    refuse_foreign_folder(out, {Path(name).parts[0] for name in extra_files or {}})
    for name in tables:
        contract_table(name)
    cast = {name: _cast_or_empty(tables, name) for name in TABLES}
    start_artifact(out)
    for name, table in cast.items():
        pq.write_table(table, out / TABLES[name].file)
    with ImageStoreWriter(out / IMAGES_FOLDER) as writer:
        for image_id, data in tqdm(images, desc="store", unit="image", disable=None):
            writer.add(image_id, data)
    for name, content in (extra_files or {}).items():
        _write_extra(out, name, content)
    manifest_extra = {
        "snapshot_id": snapshot_id,
        "source": source,
        "as_of": as_utc(as_of).isoformat(),
        "query_images": _query_images(cast["images"]),
    }
    counts = {name: table.num_rows for name, table in cast.items()} | {"pictures": len(writer)}
    return finish_artifact(out, SNAPSHOT_KIND, counts=counts, extra=manifest_extra | (extra or {}))


class Snapshot:
    """An opened snapshot. Use `Snapshot.open`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._tables: dict[str, pa.Table] = {}

    @classmethod
    def open(cls, path_or_uri: Path | str, *, verify: bool = True) -> Snapshot:
        """Open a snapshot folder, or one at `gs://bucket/prefix` (copied to a cache folder first).

        Args:
            verify: also compare every file's checksum with the manifest.

        Raises:
            ArtifactError: no snapshot there, half-written, or altered.
            ContractError: a table or column that is missing or of another type than the contract says.
        """
        if str(path_or_uri).startswith("gs://"):
            from onevision.data.store import cached_download

            path_or_uri = cached_download(str(path_or_uri))
        artifact = open_artifact(path_or_uri, SNAPSHOT_KIND, verify=verify)
        for table in TABLES.values():
            path = artifact.path / table.file
            if not path.exists():
                raise ContractError(f"{path}: the snapshot has no table {table.name!r} ({table.meaning})")
            check_schema(_read_schema(path), table, str(path))
        snapshot = cls(artifact)
        _ = snapshot.as_of, snapshot.snapshot_id, snapshot.source, snapshot.images
        return snapshot

    @property
    def path(self) -> Path:
        """The snapshot's folder."""
        return self.artifact.path

    def table(self, name: str) -> pa.Table:
        """A table in the contract's schema, in the order of the file."""
        if name not in self._tables:
            table = contract_table(name)
            rows = pq.read_table(self.path / table.file, columns=table.schema.names, partitioning=None)
            self._tables[name] = cast_table(rows, name)
        return self._tables[name]

    @cached_property
    def images(self) -> ImageStore:
        """The pictures."""
        return ImageStore(self.path / IMAGES_FOLDER)

    @cached_property
    def as_of(self) -> datetime:
        """The snapshot's date (UTC); no event is later."""
        text = self._extra("as_of")
        try:
            return as_utc(datetime.fromisoformat(text))
        except ValueError:
            raise ContractError(f"{self.path / MANIFEST}: extra.as_of is {text!r}, not an ISO time") from None

    @property
    def snapshot_id(self) -> str:
        """Name of this snapshot, such as a shop and a date."""
        return self._extra("snapshot_id")

    @property
    def source(self) -> str:
        """What made it: `synthetic`, `grocery`, `folder`."""
        return self._extra("source")

    def _extra(self, key: str) -> str:
        value = self.artifact.extra.get(key)
        if not isinstance(value, str):
            raise ContractError(
                f"{self.path / MANIFEST}: extra.{key} is {value!r}, a snapshot's manifest has text there"
            )
        return value


def refuse_foreign_folder(out: Path, also: Iterable[str] = ()) -> None:
    """`ContractError` if `out` holds anything that a snapshot does not: writing would delete it.

    Args:
        also: further names that a half-written snapshot may have left there.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ContractError(f"{out}: is a file; a snapshot is written to a folder")
    known = _OWN_NAMES | set(also)
    if (out / MANIFEST).exists():
        known |= {Path(name).parts[0] for name in _files_of_snapshot(out)}
    names = sorted(entry.name for entry in out.iterdir())
    foreign = [name for name in names if name not in known and not name.startswith(f".{MANIFEST}.")]
    if foreign:
        raise ContractError(
            f"{out}: holds {foreign[0]!r}, which is no part of a snapshot, and is not overwritten; name an empty folder"
        )


def _files_of_snapshot(out: Path) -> list[str]:
    try:
        manifest = read_json(out / MANIFEST)
        if manifest["kind"] == SNAPSHOT_KIND:
            return list(manifest["files"])
    except (ArtifactError, KeyError, TypeError):
        pass
    raise ContractError(f"{out}: its {MANIFEST} is not a snapshot's, and is not overwritten; name an empty folder")


def _cast_or_empty(tables: Mapping[str, pa.Table | pd.DataFrame], name: str) -> pa.Table:
    table = TABLES[name]
    if name in tables:
        return cast_table(tables[name], name)
    if table.required:
        raise ContractError(f"table {name!r} is missing: {table.meaning}")
    return table.schema.empty_table()


def _query_images(images: pa.Table) -> str:
    photos = pc.is_in(images["view"], pa.array(QUERY_VIEWS))
    unknown = pc.any(pc.and_(photos, pc.is_null(images["item_id"]))).as_py()
    return "unknown" if unknown else "known"


def _write_extra(out: Path, name: str, content: pa.Table | dict[str, Any]) -> None:
    path = out / name
    if not path.resolve().is_relative_to(out.resolve()) or path.exists():
        raise ContractError(f"{name!r}: a further file of a snapshot needs a free name inside its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        write_json(path, content)


def as_utc(time: datetime) -> datetime:
    """The time in UTC; one without a zone is taken as UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _read_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: not a Parquet file ({error})") from None
