"""A small Google Cloud Storage for tests: the part of the JSON API that the client library uses for objects.

Buckets, uploads (media, multipart, resumable), downloads with ranges and checksums, listing by pages, deletion, and
generation preconditions, which `gcp-storage-emulator` lacks. Use it as a context manager; while it is open,
`STORAGE_EMULATOR_HOST` names it. Faults are injected at four places, on the wire: before a request is served, in the
bytes that arrive, in the bytes that leave, and after it was served.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

HOST_VARIABLE = "STORAGE_EMULATOR_HOST"


class Dropped(Exception):  # noqa: N818 (what the client sees)
    """The connection is closed without an answer."""


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class StoredObject:
    data: bytes
    generation: int
    metadata: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()


@dataclass
class ResumableUpload:
    bucket: str
    resource: dict[str, Any]
    query: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    finished: dict[str, Any] | None = None


def _nothing(method: str, path: str) -> None:
    pass


class _Server(ThreadingHTTPServer):
    """A server that takes it as it comes that a client leaves: connections are broken here on purpose.

    Other servers print a traceback for it, which parses the source. In CPython up to 3.11.7 two threads that parse at
    once disturb each other ("AST constructor recursion depth mismatch"): the next test's import then fails.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class GcsEmulator:
    """The server and its state; `buckets[bucket][name]` may be read and altered by a test.

    Attributes:
        calls: every request for objects so far, as `(method, path)`.
        intercept: called with `(method, path)` before such a request is served; an `ApiError` from it is the answer.
        after: likewise, when it has been served and its answer is not yet sent.
        receive: what arrives of the bytes of an upload, or of a chunk of one; what is left out is lost.
        send: what leaves of the bytes of a download; if they are fewer, the connection is closed behind them.
    """

    def __init__(self, *buckets: str) -> None:
        self.buckets: dict[str, dict[str, StoredObject]] = {name: {} for name in buckets}
        self.uploads: dict[str, ResumableUpload] = {}
        self.calls: list[tuple[str, str]] = []
        self.intercept: Callable[[str, str], None] = _nothing
        self.after: Callable[[str, str], None] = _nothing
        self.receive: Callable[[bytes], bytes] = bytes
        self.send: Callable[[bytes], bytes] = bytes
        self.lock = threading.RLock()
        self._generation = 1_700_000_000_000_000
        emulator = self

        class Handler(_Handler):
            state = emulator

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> GcsEmulator:
        self._before = os.environ.get(HOST_VARIABLE)
        os.environ[HOST_VARIABLE] = self.url
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        os.environ.pop(HOST_VARIABLE)
        if self._before is not None:
            os.environ[HOST_VARIABLE] = self._before

    def objects(self, bucket: str) -> dict[str, StoredObject]:
        if bucket not in self.buckets:
            raise ApiError(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def object(self, bucket: str, name: str) -> StoredObject:
        objects = self.objects(bucket)
        if name not in objects:
            raise ApiError(404, f"No such object: {bucket}/{name}")
        return objects[name]

    def check(self, bucket: str, name: str, query: dict[str, str]) -> None:
        present = self.objects(bucket).get(name)
        generation = present.generation if present else 0
        wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if (wanted is not None and int(wanted) != generation) or (unwanted is not None and int(unwanted) == generation):
            raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")

    def put(self, bucket: str, resource: dict[str, Any], query: dict[str, str], data: bytes) -> dict[str, Any]:
        name = resource.get("name") or query["name"]
        self.check(bucket, name, query)
        self._generation += 1
        stored = StoredObject(
            data, self._generation, resource.get("metadata") or {}, resource.get("contentType") or "text/plain"
        )
        if resource.get("crc32c", stored.crc32c) != stored.crc32c:
            raise ApiError(400, f"Provided CRC32C {resource['crc32c']!r} doesn't match calculated {stored.crc32c!r}.")
        self.buckets[bucket][name] = stored
        return self.describe(bucket, name)

    def describe(self, bucket: str, name: str) -> dict[str, Any]:
        stored = self.object(bucket, name)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.data)),
            "crc32c": stored.crc32c,
            "contentType": stored.content_type,
            "metadata": stored.metadata,
            "updated": stored.updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, after, limit = query.get("prefix", ""), query.get("pageToken", ""), int(query.get("maxResults", 1000))
        names = sorted(n for n in self.objects(bucket) if n.startswith(prefix) and n > after)
        page = {"kind": "storage#objects", "items": [self.describe(bucket, name) for name in names[:limit]]}
        return page | ({"nextPageToken": names[limit - 1]} if len(names) > limit else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer waits 40 ms
    state: GcsEmulator
    _counted = False

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self._body()
        counted = (
            parts.path.split("/b/")[-1].count("/") > 0
        )  # the client's telemetry asks for the bucket in the background, at any time
        if counted:
            self.state.calls.append((self.command, parts.path))
        try:
            with self.state.lock:
                if counted:
                    self.state.intercept(self.command, parts.path)
                self._counted = counted
                self._route(parts.path, query, body)
        except ApiError as error:
            self._counted = False
            self._json({"error": {"code": error.status, "message": str(error), "errors": []}}, error.status)
        except Dropped:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (names that http.server looks up)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
        state = self.state
        match = re.fullmatch(r"(/upload|/download)?/storage/v1/b(?:/([^/]+)(?:(/o)(?:/(.+))?)?)?", path)
        if match is None:
            raise ApiError(404, f"not served by this emulator: {path}")
        side, bucket, objects, name = (unquote(group or "") for group in match.groups())
        if side == "/upload":
            self._upload(bucket, query, body)
        elif not bucket and self.command == "POST":
            made = json.loads(body)["name"]
            state.buckets.setdefault(made, {})
            self._json({"kind": "storage#bucket", "name": made})
        elif not objects:
            state.objects(bucket)
            self._json({"kind": "storage#bucket", "name": bucket})
        elif not name:
            self._json(state.listing(bucket, query))
        elif self.command == "DELETE":
            state.object(bucket, name)
            state.check(bucket, name, query)
            del state.buckets[bucket][name]
            self._answer(204, b"")
        else:
            state.object(bucket, name)
            state.check(bucket, name, query)
            self._media(bucket, name) if query.get("alt") == "media" else self._json(state.describe(bucket, name))

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        self.state.objects(bucket)
        if "upload_id" in query:
            return self._resume(query["upload_id"], body)
        kind = query["uploadType"]
        if kind == "resumable":
            key = uuid.uuid4().hex
            self.state.uploads[key] = ResumableUpload(bucket, json.loads(body or b"{}"), query)
            location = f"{self.state.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
            return self._answer(200, b"", {"Location": location})
        resource: dict[str, Any] = {"contentType": self.headers.get("Content-Type")}
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            first, second = body.split(b"--" + boundary[1].encode())[1:3]
            resource = json.loads(first.partition(b"\r\n\r\n")[2])
            body = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        return self._json(self.state.put(bucket, resource, query, self.state.receive(body)))

    def _resume(self, key: str, body: bytes) -> None:
        upload = self.state.uploads[key]
        if upload.finished is not None:
            return self._json(upload.finished)
        span = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", ""))
        offset = int(span[1]) if span is not None and span[1] is not None else len(upload.data)
        if offset <= len(upload.data):
            # bytes that were kept before are not taken again
            upload.data += self.state.receive(body)[len(upload.data) - offset :]
        total = None if span is None or span[3] == "*" else int(span[3])
        if span is not None and (total is None or len(upload.data) < total):
            held = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
            return self._answer(308, b"", held)
        upload.finished = self.state.put(upload.bucket, upload.resource, upload.query, bytes(upload.data))
        return self._json(upload.finished)

    def _media(self, bucket: str, name: str) -> None:
        stored = self.state.object(bucket, name)
        headers = {"X-Goog-Generation": str(stored.generation), "X-Goog-Hash": f"crc32c={stored.crc32c}"}
        headers["Content-Type"] = stored.content_type
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._answer(200, stored.data, headers, self.state.send(stored.data))
        start, stop = int(span[1]), min(int(span[2] or len(stored.data) - 1) + 1, len(stored.data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(stored.data)}"
        part = stored.data[start:stop]
        return self._answer(206, part, headers, self.state.send(part))

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, sent: bytes | None = None
    ) -> None:
        if self._counted:
            self.state.after(self.command, self.path)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body if sent is None else sent
        self.wfile.write(sent)
        if len(sent) < len(body):
            raise Dropped
