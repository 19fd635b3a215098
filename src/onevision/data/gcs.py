"""The Google Cloud Storage side of `store.py`; credentials, retries and checksums are the client library's own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import requests  # type: ignore[import-untyped]
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from onevision.data.store import ABSENT, PointerConflict, StoreError


class GcsStore:
    """A prefix of a bucket. `STORAGE_EMULATOR_HOST` points the client at an emulator."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        if not bucket:
            raise StoreError(f"{uri}: no bucket; write gs://bucket/prefix")
        self.root = uri.rstrip("/")
        self._prefix = prefix.strip("/")
        with _explained(self.root):
            self._bucket = _client(os.environ.get("STORAGE_EMULATOR_HOST")).bucket(bucket)

    def read(self, name: str) -> tuple[bytes | None, int]:
        """See `Store.read`."""
        blob = self._blob(name)
        with _explained(self._uri(name)):
            try:
                data = blob.download_as_bytes(checksum="crc32c")
            except api.NotFound:
                self._require_bucket()
                return None, ABSENT
        return data, int(blob.generation)

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """See `Store.write_if_generation`."""
        blob = self._blob(name)
        blob.metadata = {"onevision-writer": uuid.uuid4().hex}
        with _explained(self._uri(name)):
            try:
                blob.upload_from_string(
                    data, content_type="application/json", if_generation_match=expected, checksum="crc32c"
                )
            except api.PreconditionFailed:
                return self._own_generation(name, blob.metadata, expected)
        return int(blob.generation)

    def _own_generation(self, name: str, mine: dict[str, str], expected: int) -> int:
        # a retry after a lost answer is refused although our first try was taken: our mark tells
        present = self._bucket.get_blob(self._key(name))
        if present is not None and present.metadata == mine:
            return int(present.generation)
        found = present.generation if present is not None else ABSENT
        raise PointerConflict(
            f"{self._uri(name)}: is at version {found}, expected {expected}; somebody else changed it"
        )

    def send_file(self, path: Path, name: str) -> None:
        """See `Store.send_file`."""
        with _explained(self._uri(name)):
            self._blob(name).upload_from_filename(str(path), content_type="application/octet-stream", checksum="crc32c")

    def fetch_file(self, name: str, path: Path) -> bool:
        """See `Store.fetch_file`."""
        with _explained(self._uri(name)):
            try:
                self._blob(name).download_to_filename(str(path), checksum="crc32c")
            except api.NotFound:
                return False
        return True

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _uri(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _blob(self, name: str) -> storage.Blob:
        return self._bucket.blob(self._key(name))

    def _require_bucket(self) -> None:
        # listing needs no more rights than reading; only a missing bucket answers "not found"
        list(self._bucket.list_blobs(prefix=self._prefix, max_results=1))


@lru_cache(maxsize=1)
def _client(emulator: str | None) -> storage.Client:  # noqa: ARG001 (another emulator, another client)
    return storage.Client()


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except auth.DefaultCredentialsError:
        raise StoreError(
            f"{uri}: no Google Cloud credentials; run `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or use workload identity on the cluster"
        ) from None
    except api.NotFound:
        bucket = uri.removeprefix("gs://").partition("/")[0]
        raise StoreError(f"{uri}: bucket {bucket!r} does not exist; create it or correct the name") from None
    except (api.Forbidden, api.Unauthorized) as error:
        raise StoreError(
            f"{uri}: these credentials may not do this; the account needs the role Storage Object User on the bucket "
            f"({error.message})"
        ) from None
    except DataCorruption as error:
        raise StoreError(f"{uri}: its bytes changed on the way (crc32c differs); try again ({error})") from None
    except (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException) as error:
        raise StoreError(f"{uri}: the store does not answer as it should ({error})") from None
