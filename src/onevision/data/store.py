"""Stores: artifacts and the champion pointer on a local path or at `gs://bucket/prefix`, behind one small interface.

An artifact is sent file by file and its manifest last, so that a reader of a half-sent one finds no manifest.
A pointer is one small JSON object that is replaced only by who knows its current version: of two publishers who
race, exactly one wins and the other is told so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

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


class Store(Protocol):
    """Objects under one root, by relative name (`/` between the parts)."""

    root: str

    def read(self, name: str) -> tuple[bytes | None, int]:
        """An object's bytes and version; `(None, 0)` if it is not there."""

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """Replace an object of version `expected` (0: it must not be there); its new version, or `PointerConflict`."""

    def send_file(self, path: Path, name: str) -> None:
        """Copy a local file into the store, checksummed on the way."""

    def fetch_file(self, name: str, path: Path) -> bool:
        """Copy an object to a local file, checksummed on the way; False if it is not there."""


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
    return LocalStore(Path(text))


class LocalStore:
    """A folder as a store. Versions are counted in `.<name>.version`, which is also the lock file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)

    def read(self, name: str) -> tuple[bytes | None, int]:
        """See `Store.read`."""
        path = self.folder / name
        try:
            with self._version_file(path).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)
                version = int(lock.read() or 1)
                return path.read_bytes(), version
        except FileNotFoundError:
            # never replaced yet: a first version has no version file
            return (path.read_bytes(), 1) if path.is_file() else (None, ABSENT)

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """See `Store.write_if_generation`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write_durably(path, data)
        try:
            return self._create(path, temporary) if expected == ABSENT else self._replace(path, temporary, expected)
        finally:
            temporary.unlink(missing_ok=True)

    def _create(self, path: Path, temporary: Path) -> int:
        try:
            os.link(temporary, path)  # fails if somebody else has made it, without a lock
        except FileExistsError:
            raise PointerConflict(f"{path}: is there already, it was expected not to be") from None
        return 1

    def _replace(self, path: Path, temporary: Path, expected: int) -> int:
        with self._version_file(path).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            version = int(lock.read() or 1) if path.is_file() else ABSENT
            if version != expected:
                raise PointerConflict(f"{path}: is at version {version}, expected {expected}; somebody else changed it")
            # the count goes first: a crash in between only makes readers of the old version read again
            lock.truncate(0)
            lock.write(str(version + 1).encode())
            lock.flush()
            os.fsync(lock.fileno())
            temporary.replace(path)
            return version + 1

    def send_file(self, path: Path, name: str) -> None:
        """See `Store.send_file`."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(path, temporary)
        temporary.replace(target)

    def fetch_file(self, name: str, path: Path) -> bool:
        """See `Store.fetch_file`."""
        source = self.folder / name
        if not source.is_file():
            return False
        shutil.copyfile(source, path)
        return True

    @staticmethod
    def _version_file(path: Path) -> Path:
        return path.with_name(f".{path.name}.version")


def upload(local: Path, uri: str | Path) -> Artifact:
    """Copy a finished artifact to a local path or `gs://bucket/prefix`: its files, then its manifest.

    Sending the same artifact again does nothing; a killed upload is finished by sending it again.

    Returns:
        the local artifact, verified before the first byte was sent.

    Raises:
        ArtifactError: the local artifact is half-written or altered, or another one is there already.
        StoreError: credentials, bucket or folder are missing.
    """
    artifact = open_artifact(local)
    store = open_store(uri)
    manifest = (local / MANIFEST).read_bytes()
    present, _ = store.read(MANIFEST)
    if present is None:
        reports = [name for name in REPORTS if (local / name).is_file()]
        _transfer("upload", [*_file_names(manifest, local), *reports], lambda name: store.send_file(local / name, name))
        try:
            store.write_if_generation(MANIFEST, manifest, ABSENT)
        except PointerConflict:
            present, _ = store.read(MANIFEST)
    if present is not None and present != manifest:
        raise ArtifactError(f"{uri}: holds another artifact; finished artifacts are not overwritten, choose a new name")
    return artifact


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
    names = _file_names(manifest, uri)
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{local.name}.", dir=local.parent))
    try:
        for name in (*names, *REPORTS):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
        found = _transfer("download", [*names, *REPORTS], lambda name: store.fetch_file(name, partial / name))
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


def _file_names(manifest: bytes, place: str | Path) -> list[str]:
    try:
        names = list(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{join(place, MANIFEST)}: not an artifact manifest ({error!r})") from None
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ArtifactError(f"{join(place, MANIFEST)}: names the file {name!r}, which is outside its folder")
    return names


def _transfer(label: str, names: list[str], one: Callable[[str], Any]) -> dict[str, Any]:
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        results = tqdm(pool.map(one, names), desc=label, total=len(names), unit="file", disable=None)
        return dict(zip(names, results, strict=True))


def _write_durably(path: Path, data: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o644)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    return Path(name)
