"""Stores: artifacts and the champion pointer on a local path or at `gs://bucket/prefix`, behind one small interface.

An artifact is sent file by file, each verified by its CRC32C and never replaced, and its manifest last: a reader of a
half-sent one finds no manifest, and what a manifest names is there.
A pointer is one small JSON object that is replaced only by who knows its current version: of two publishers who
race, exactly one wins and the other is told so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import google_crc32c
from tqdm import tqdm

from onevision.artifacts import MANIFEST, REPORTS, Artifact, open_artifact
from onevision.errors import ArtifactError, OneVisionError

POINTER = "champion.json"
ABSENT = 0
"""Version of an object that is not there."""
_TRANSFERS = 8


class StoreError(OneVisionError):
    """A store that cannot be reached, read or written; the message says what to set or create."""


class PointerConflict(StoreError):  # noqa: N818 (it is no fault: somebody else was first)
    """The object changed since it was read; read it again and decide anew."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of an object.

    Attributes:
        name: relative to the store's root.
        bytes: its size.
        updated: when it was written (UTC).
        checksum: gives its CRC32C as base64, as `crc32c` does of a file.
    """

    name: str
    bytes: int
    updated: datetime
    checksum: Callable[[], str]


class Store(Protocol):
    """Objects under one root, by relative name (`/` between the parts)."""

    root: str

    def read(self, name: str) -> tuple[bytes | None, int]:
        """An object's bytes and version; `(None, 0)` if it is not there."""

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """Replace an object of version `expected` (0: it must not be there); its new version, or `PointerConflict`."""

    def send_file(self, path: Path, name: str) -> None:
        """Copy a local file into the store and verify it there; `PointerConflict` if other bytes have the name."""

    def fetch_file(self, name: str, path: Path) -> bool:
        """Copy an object to a local file, verified by its checksum; False if it is not there."""

    def objects(self) -> list[StoredObject]:
        """Every object, by name."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if it is not there."""


def crc32c(path: Path) -> str:
    """CRC32C of a file's bytes (RFC 4960, appendix B) as Cloud Storage writes it: base64, highest byte first."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def is_remote(uri: str | Path) -> bool:
    """Whether this names a Google Cloud Storage prefix rather than a local path."""
    return str(uri).startswith("gs://")


def join(root: str | Path, *parts: str) -> str:
    """A location below a root: `gs://bucket/a` + `b` is `gs://bucket/a/b`; local paths likewise."""
    return "/".join([str(root).rstrip("/"), *parts]) if is_remote(root) else str(Path(root, *parts))


def open_store(root: str | Path) -> Store:
    """The store at a local path or `gs://bucket/prefix`; `StoreError` for any other scheme."""
    text = str(root)
    if is_remote(text):
        from onevision.data.gcs import GcsStore

        return GcsStore(text)
    if "://" in text:
        raise StoreError(f"{text}: write a location as a local path or gs://bucket/prefix")
    from onevision.data.local_store import LocalStore

    return LocalStore(Path(text))


def upload(local: Path, uri: str | Path) -> Artifact:
    """Copy a finished artifact to a local path or `gs://bucket/prefix`: its files, then its manifest.

    What is there already is not sent again, so a killed upload is finished by sending it again. Reports, counts and
    notes are no part of an artifact's identity: those sent first stay.

    Returns:
        the local artifact, verified before the first byte was sent.

    Raises:
        ArtifactError: the local artifact is half-written or altered, or another one is there or on its way.
        StoreError: credentials, bucket or folder are missing.
    """
    artifact = open_artifact(local)
    store = open_store(uri)
    manifest = (local / MANIFEST).read_bytes()
    if not _is_free(store, manifest):
        raise ArtifactError(f"{uri}: holds another artifact; finished artifacts are not overwritten, choose a new name")
    present = {found.name: found for found in store.objects()}

    def send(name: str) -> None:
        if name in present and (name in REPORTS or present[name].checksum() == crc32c(local / name)):
            return
        try:
            store.send_file(local / name, name)
        except PointerConflict as conflict:
            if name not in REPORTS:
                raise ArtifactError(
                    f"{conflict}; another artifact is being sent to {uri}, or its upload was killed. Choose a new "
                    "name, or delete what is there"
                ) from None

    reports = {name: (local / name).stat().st_size for name in REPORTS if (local / name).is_file()}
    _transfer("upload", {**_file_sizes(manifest, local), **reports}, send)
    try:
        if MANIFEST not in present:
            store.write_if_generation(MANIFEST, manifest, ABSENT)
    except PointerConflict:
        if not _is_free(store, manifest):
            raise ArtifactError(f"{uri}: another artifact was sent there meanwhile; choose a new name") from None
    return artifact


def _is_free(store: Store, manifest: bytes) -> bool:
    """Whether nothing is there, or the same artifact: its counts and notes may be those of another attempt."""
    present, _ = store.read(MANIFEST)
    if present in (None, manifest):
        return True
    try:
        held, sent = json.loads(present), json.loads(manifest)
        return all(held[key] == sent[key] for key in ("kind", "identity", "files"))
    except (ValueError, KeyError, TypeError):
        return False


def download(uri: str | Path, local: Path) -> Artifact:
    """Copy an artifact from a local path or `gs://bucket/prefix` to a folder, and verify every checksum.

    Args:
        local: must not exist, or be empty, or hold the same artifact.

    Raises:
        ArtifactError: nothing there, half-written (no manifest), altered, or `local` holds something else.
        StoreError: credentials, bucket or folder are missing.
    """
    store = open_store(uri)
    manifest, _ = store.read(MANIFEST)
    if manifest is None:
        raise ArtifactError(f"{uri}: no {MANIFEST} there; no artifact, or one whose upload did not finish")
    if (local / MANIFEST).is_file() and (local / MANIFEST).read_bytes() == manifest:
        return open_artifact(local)
    if local.is_file() or (local.is_dir() and any(local.iterdir())):
        raise ArtifactError(f"{local}: is not empty; download to a new folder")
    sizes = _file_sizes(manifest, uri) | dict.fromkeys(REPORTS, 0)
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{local.name}.", dir=local.parent))
    try:
        for name in sizes:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
        found = _transfer("download", sizes, lambda name: store.fetch_file(name, partial / name))
        missing = [name for name, there in found.items() if not there and name not in REPORTS]
        if missing:
            raise ArtifactError(f"{join(uri, missing[0])}: named in the manifest but missing")
        (partial / MANIFEST).write_bytes(manifest)
        open_artifact(partial)
        partial.chmod(0o755)
        _put_in_place(partial, local)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_artifact(local, verify=False)


def _put_in_place(folder: Path, local: Path) -> None:
    try:
        folder.replace(local)  # takes the place of an empty folder too
    except OSError:
        # somebody else fetched it meanwhile
        if not (local / MANIFEST).is_file() or (local / MANIFEST).read_bytes() != (folder / MANIFEST).read_bytes():
            raise ArtifactError(f"{local}: was filled with something else during the download") from None


def cached_download(uri: str) -> Path:
    """Local copy of an artifact, in `$ONEVISION_CACHE` (default `~/.cache/onevision`), fetched once per content."""
    manifest, _ = open_store(uri).read(MANIFEST)
    if manifest is None:
        raise ArtifactError(f"{uri}: no {MANIFEST} there; no artifact, or one whose upload did not finish")
    root = Path(os.environ.get("ONEVISION_CACHE") or Path.home() / ".cache" / "onevision")
    folder = root / hashlib.sha256(manifest).hexdigest()[:32]
    try:
        return open_artifact(folder, verify=False).path
    except ArtifactError:
        shutil.rmtree(folder, ignore_errors=True)
        return download(uri, folder).path


def read_pointer(root: str | Path) -> tuple[dict[str, Any] | None, int]:
    """What `champion.json` under `root` says, and its version for `swap_pointer`; `(None, 0)` if there is none yet."""
    data, version = open_store(root).read(POINTER)
    if data is None:
        return None, ABSENT
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreError(f"{join(root, POINTER)}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise StoreError(f"{join(root, POINTER)}: holds a {type(value).__name__}, a pointer is a JSON object")
    return value, version


def swap_pointer(root: str | Path, value: dict[str, Any], expected_version: int) -> int:
    """Replace `champion.json` under `root` in one step, if it still has the version that was read.

    Returns:
        the new version.

    Raises:
        PointerConflict: somebody else changed it since; nothing was written.
    """
    data = (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
    return open_store(root).write_if_generation(POINTER, data, expected_version)


def _file_sizes(manifest: bytes, place: str | Path) -> dict[str, int]:
    try:
        sizes = {name: int(entry["bytes"]) for name, entry in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{join(place, MANIFEST)}: not an artifact manifest ({error!r})") from None
    for name in sizes:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ArtifactError(f"{join(place, MANIFEST)}: names the file {name!r}, which is outside its folder")
    return sizes


def _transfer(label: str, sizes: Mapping[str, int], one: Callable[[str], Any]) -> dict[str, Any]:
    """Results of `one(name)`, several at a time, with a progress bar in bytes; the first error ends the work."""
    found = {}
    with (
        ThreadPoolExecutor(_TRANSFERS) as pool,
        tqdm(desc=label, total=sum(sizes.values()), unit="B", unit_scale=True, disable=None) as bar,
    ):
        for name, result in zip(sizes, pool.map(one, sizes), strict=True):
            found[name] = result
            bar.update(sizes[name])
    return found
