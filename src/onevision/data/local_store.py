"""The local side of `store.py`: a folder as a store, safe among processes of one machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from onevision.data.store import ABSENT, PointerConflict, StoredObject, StoreError, crc32c


class LocalStore:
    """A folder as a store. Versions are counted in `.<name>.version`, which is also the lock file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)

    def read(self, name: str) -> tuple[bytes | None, int]:
        """See `Store.read`."""
        path = self.folder / name
        try:
            with _version_file(path).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)
                version = int(lock.read() or 1)
                return path.read_bytes(), version
        except NotADirectoryError:
            raise StoreError(f"{self.folder}: is a file, where a folder is wanted") from None
        except FileNotFoundError:
            # never replaced yet: a first version has no version file
            return (path.read_bytes(), 1) if path.is_file() else (None, ABSENT)

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """See `Store.write_if_generation`."""
        path = self.folder / name
        with _temporary(path) as temporary:
            temporary.write_bytes(data)
            _flush(temporary)
            return self._create(path, temporary) if expected == ABSENT else self._replace(path, temporary, expected)

    def _create(self, path: Path, temporary: Path) -> int:
        try:
            os.link(temporary, path)  # fails if somebody else has made it, without a lock
        except FileExistsError:
            raise PointerConflict(f"{path}: is there already, it was expected not to be") from None
        return 1

    def _replace(self, path: Path, temporary: Path, expected: int) -> int:
        with _version_file(path).open("a+b") as lock:
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
        with _temporary(target) as temporary:
            shutil.copyfile(path, temporary)
            _flush(temporary)
            try:
                self._create(target, temporary)
            except PointerConflict:
                if crc32c(target) != crc32c(path):
                    raise PointerConflict(f"{target}: is there already, with other bytes than {path}") from None

    def fetch_file(self, name: str, path: Path) -> bool:
        """See `Store.fetch_file`."""
        source = self.folder / name
        if not source.is_file():
            return False
        shutil.copyfile(source, path)
        return True

    def objects(self) -> list[StoredObject]:
        """See `Store.objects`."""
        found = []
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file() and not _is_own(p)):
            status = path.stat()
            updated = datetime.fromtimestamp(status.st_mtime, UTC)
            name = path.relative_to(self.folder).as_posix()
            found.append(StoredObject(name, status.st_size, updated, partial(crc32c, path)))
        return found

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        _version_file(path).unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.folder or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()


def _version_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.version")


def _is_own(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix in (".tmp", ".version")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """An empty file beside `path` that is gone afterwards, unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
