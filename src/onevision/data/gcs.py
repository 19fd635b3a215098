"""The Google Cloud Storage side of `store.py`.

Retries are the client library's, with exponential back-off and jitter. Its checksums are completed here: a download
that it resumed after a dropped connection goes unchecked there, and so does the answer to an upload in one request.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path

import google_crc32c
import requests  # type: ignore[import-untyped]
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from onevision.data.store import ABSENT, PointerConflict, StoredObject, StoreError, crc32c

_RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=30, multiplier=2).with_timeout(300)
"""Seconds; of 408, 429, 5xx, time-outs and dropped connections, in the middle of a body too."""
_CHUNK = 16 * 2**20
"""Bytes of a resumable upload that are sent, and tried again, as one."""


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
        blob = self._bucket.blob(self._key(name))
        with _explained(self._uri(name)):
            try:
                data = blob.download_as_bytes(checksum="crc32c", retry=_RETRY)
            except api.NotFound:
                self._require_bucket()
                return None, ABSENT
            digest = google_crc32c.Checksum(data).digest()
            self._verify(name, blob, base64.b64encode(digest).decode())
        return data, int(blob.generation)

    def write_if_generation(self, name: str, data: bytes, expected: int) -> int:
        """See `Store.write_if_generation`."""
        blob = self._bucket.blob(self._key(name))
        blob.metadata = {"onevision-writer": uuid.uuid4().hex}
        with _explained(self._uri(name)):
            try:
                blob.upload_from_string(
                    data, content_type="application/json", if_generation_match=expected, checksum="crc32c", retry=_RETRY
                )
            except api.PreconditionFailed:
                return self._own_generation(name, blob.metadata, expected)
        return int(blob.generation)

    def _own_generation(self, name: str, mine: dict[str, str], expected: int) -> int:
        # a retry after a lost answer is refused although our first try was taken: our mark tells
        present = self._bucket.get_blob(self._key(name), retry=_RETRY)
        if present is not None and present.metadata == mine:
            return int(present.generation)
        found = present.generation if present is not None else ABSENT
        raise PointerConflict(
            f"{self._uri(name)}: is at version {found}, expected {expected}; somebody else changed it"
        )

    def send_file(self, path: Path, name: str) -> None:
        """See `Store.send_file`."""
        checksum = crc32c(path)
        with _explained(self._uri(name)):
            try:
                blob = self._upload(path, name, checksum)
            except api.PreconditionFailed:
                # ours, after a lost answer, or somebody else's
                blob = self._bucket.get_blob(self._key(name), retry=_RETRY)
                if blob is None or blob.crc32c != checksum:
                    raise PointerConflict(
                        f"{self._uri(name)}: is there already, with other bytes than {path}"
                    ) from None
        self._verify(name, blob, checksum)

    def _upload(self, path: Path, name: str, checksum: str, attempts: int = 4) -> storage.Blob:
        blob = self._bucket.blob(self._key(name), chunk_size=_CHUNK)
        blob.crc32c = checksum  # the server refuses other bytes
        try:
            blob.upload_from_filename(
                str(path), "application/octet-stream", if_generation_match=ABSENT, checksum=None, retry=_RETRY
            )
        except (api.GoogleAPICallError, ValueError) as error:
            # 410: the session expired; ValueError: the server kept a part of a chunk, where the client cannot go on
            if getattr(error, "code", HTTPStatus.GONE) != HTTPStatus.GONE:
                raise
            if attempts == 1:
                raise StoreError(f"{self._uri(name)}: its upload is cut off again and again ({error})") from None
            return self._upload(path, name, checksum, attempts - 1)
        return blob

    def fetch_file(self, name: str, path: Path) -> bool:
        """See `Store.fetch_file`."""
        blob = self._bucket.blob(self._key(name))
        with _explained(self._uri(name)):
            try:
                blob.download_to_filename(str(path), checksum="crc32c", retry=_RETRY)
            except api.NotFound:
                return False
        self._verify(name, blob, crc32c(path))
        return True

    def objects(self) -> list[StoredObject]:
        """See `Store.objects`."""
        below = f"{self._prefix}/" if self._prefix else ""
        with _explained(self.root):
            return [
                StoredObject(blob.name.removeprefix(below), blob.size, blob.updated, partial(getattr, blob, "crc32c"))
                for blob in self._bucket.list_blobs(prefix=below, retry=_RETRY)
            ]

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        with _explained(self._uri(name)), suppress(api.NotFound):
            self._bucket.blob(self._key(name)).delete(retry=_RETRY)

    def _verify(self, name: str, blob: storage.Blob, checksum: str) -> None:
        if blob.crc32c != checksum:
            sums = f"crc32c {blob.crc32c} there, {checksum} here"
            raise StoreError(f"{self._uri(name)}: its bytes changed on the way ({sums}); try again")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _uri(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _require_bucket(self) -> None:
        # listing needs no more rights than reading; only a missing bucket answers "not found"
        list(self._bucket.list_blobs(prefix=self._prefix, max_results=1, retry=_RETRY))


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
    except api.BadRequest as error:
        reason = "its bytes changed on the way" if "crc32c" in str(error).lower() else "the store refuses the request"
        raise StoreError(f"{uri}: {reason} ({error.message})") from None
    except (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException) as error:
        raise StoreError(f"{uri}: the store does not answer as it should ({error})") from None
