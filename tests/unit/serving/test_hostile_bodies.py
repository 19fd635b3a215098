"""Whatever is sent: a structured answer with the client's or no mistake, never a 5xx, a traceback or a hang."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from support.servers import RunningServer, wait_until

from onevision.serving.config import BATCH_CAP
from onevision.serving.protocol import Inference
from onevision.serving.requests import MAX_TEXT, MAX_VALUES, JsonSearch

INFER = "/v2/models/onevision/infer"
CAP_MB = 0.2


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[RunningServer]:
    running = RunningServer(
        bundle=str(bundle), settings={"max_body_mb": CAP_MB, "max_pixels": 4_000_000, "body_timeout_s": 0.5}
    ).wait_until_ready()
    yield running
    assert running.client.get("/v2/health/ready").status_code == 200
    running.stop()


def refused(answer: httpx.Response, status: int, word: str) -> None:
    assert (answer.status_code, word in answer.text) == (status, True), answer.text
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(server: RunningServer) -> None:
    bomb = png_header(30_000, 30_000, bytes(10_000_000))
    assert len(bomb) < CAP_MB * 1e6
    refused(server.search(bomb), 400, "cap")
    refused(server.search(png_header(3_000, 3_000)), 400, "3000 x 3000")


def test_a_crop_is_detected_within_the_same_limits(server: RunningServer, photo: bytes) -> None:
    post = server.client.post
    assert set(post("/page/crop", content=photo).json()) == {"crop"}
    refused(post("/page/crop", content=b""), 400, "unusable_image")
    refused(post("/page/crop", content=b"no picture"), 400, "unusable_image")
    refused(post("/page/crop", content=photo[: len(photo) // 2]), 400, "unusable_image")
    refused(post("/page/crop", content=png_header(3_000, 3_000)), 400, "3000 x 3000")
    refused(post("/page/crop", content=bytes(int(CAP_MB * 1e6) + 1)), 413, "too_large")
    assert server.metric("onevision_pending_photos") == 0


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_truncated_picture_is_refused_in_every_format(server: RunningServer, form: str) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(stream, form)
    whole = stream.getvalue()
    assert server.search(whole).status_code == 200
    refused(server.search(whole[: len(whole) // 2]), 400, "unusable_image")


def test_a_body_over_the_cap_is_refused_with_and_without_its_length(server: RunningServer) -> None:
    large = bytes(int(CAP_MB * 1e6) + 1)
    refused(server.search(large), 413, "too_large")

    def parts() -> Iterator[bytes]:
        yield from (large[:65_536] for _ in range(8))

    headers = {"content-type": "application/json"}
    for path in ("/search", INFER):
        refused(httpx.post(server.url + path, content=parts(), headers=headers), 413, "MB")


def test_a_body_that_never_comes_is_given_up(server: RunningServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        head = "POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        slow.sendall(head.encode() + b'{"image"')
        assert b" 408 " in slow.recv(4096)
    assert server.metric("onevision_pending_photos") == 0


def test_a_body_that_is_broken_off_is_counted_as_the_clients_and_is_no_error_of_the_log(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    for path in "/search", INFER, "/page/crop":
        answered = f'onevision_request_seconds_count{{route="{path}"}}'
        before = server.metric(answered)
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10) as leaving:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
            leaving.sendall(head.encode() + b'{"image"')
        wait_until(lambda series=answered, count=before: server.metric(series) > count)
        assert server.metric(f'onevision_requests_total{{code="499",route="{path}"}}') == 1
    assert server.metric("onevision_pending_photos") == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 422, "invalid_request"),
        (b"{", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b'{"image": 3}', 422, "image"),
        (b'{"image": "%%%"}', 400, "not base64"),
        (b'{"image": "AAAA"}', 400, "unusable_image"),
        (b'{"image": "AAAA", "k": 10000000000000000000000000}', 422, "k"),
        (b'{"image": "AAAA", "k": "5"}', 422, "k"),
        (b'{"image": "AAAA", "k": 101}', 422, "cap of 100"),
        (b'{"image": "AAAA", "min_price": NaN}', 422, "min_price"),
        (b'{"image": "AAAA", "min_price": 3, "max_price": 2}', 400, "price"),
        (b'{"image": "AAAA", "url": "http://169.254.169.254/"}', 422, "url: unknown key"),
        (b'{"image": "AAAA", "user": ""}', 422, "user"),
        (b'{"image": "\xff"}', 422, "invalid_request"),
        (b"[" * 15_000, 422, "invalid_request"),
    ],
)
def test_json_that_is_wrong_is_named(server: RunningServer, body: bytes, status: int, word: str) -> None:
    refused(server.client.post("/search", content=body, headers={"content-type": "application/json"}), status, word)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", b'{"image": [%s]}' % b",".join([b"0"] * MAX_VALUES)),
        ("/search", b"{%s}" % b",".join(b'"%d":0' % key for key in range(MAX_VALUES + 1))),
        ("/search", b'{"image": %s}' % (b"[" * (MAX_VALUES + 1))),
        (INFER, b'{"inputs": [%s]}' % b",".join([b"{}"] * MAX_VALUES)),
        (INFER, b'{"inputs": [{"name": "image", "parameters": {"a": [%s]}}]}' % b",".join([b"{}"] * MAX_VALUES)),
    ],
)
def test_a_body_of_very_many_values_is_refused_unparsed(
    server: RunningServer, body: bytes, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in JsonSearch, Inference:
        monkeypatch.setattr(model, "model_validate_json", lambda _: pytest.fail("it was parsed"))
    answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
    refused(answer, 413, f"over {MAX_VALUES} values")


@pytest.mark.parametrize("wrong", ["inputs", "outputs", "shape", "data"])
def test_a_list_that_is_too_long_is_one_mistake(wrong: str) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}
    many: list[Any] = [{}] * 10_000
    body = {"inputs": [tensor | {wrong: many}]} if wrong in tensor else {"inputs": [tensor], wrong: many}
    with pytest.raises(ValidationError, match="should have at most") as raised:
        Inference.model_validate_json(json.dumps(body))
    assert raised.value.error_count() == 1


def test_the_largest_request_is_within_the_values_of_a_body() -> None:
    users = ["," * MAX_TEXT] * BATCH_CAP
    names = {"image": ["AAAA"] * BATCH_CAP, "user": users}
    tensors = [{"name": name, "shape": [64], "datatype": "BYTES", "data": data} for name, data in names.items()]
    assert sum(map(json.dumps({"inputs": tensors}).count, ",[{")) < MAX_VALUES


def test_very_many_mistakes_are_counted_and_not_named(server: RunningServer) -> None:
    answer = server.client.post("/search", json={f"key {n}": 0 for n in range(1000)})
    refused(answer, 422, "1000 keys or values are wrong")


def test_forms_that_are_wrong_are_named(server: RunningServer, photo: bytes) -> None:
    post = server.client.post
    refused(post("/search", data={"k": "3"}, files={"picture": photo}), 422, "image")
    refused(post("/search", data={"image": "text"}, files={"other": b"x"}), 422, "image")
    refused(post("/search", files=[("image", photo), ("image", photo)]), 400, "files")
    refused(post("/search", files={"image": photo}, data={"k": ["1", "2"]}), 422, "twice")
    refused(post("/search", files={"image": photo}, data={"colour": "red"}), 422, "unknown key")
    refused(post("/search", content=b"x", headers={"content-type": "multipart/form-data"}), 400, "boundary")
    refused(post("/search", content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported")
    refused(post("/search", content=b"x"), 415, "nothing")


def test_a_picture_cannot_be_fetched_from_outside_the_snapshot(server: RunningServer) -> None:
    for path in (
        "/pictures/i001",
        "/pictures/..%2f..%2fetc%2fpasswd",
        "/page/..%2fconfig.py",
        "/page/%2e%2e/search.py",
    ):
        assert server.client.get(path).status_code == 404


FORM_PIECES = (
    b"--b",
    b"--b--",
    b"\r\n",
    b"\r\n\r\n",
    b'Content-Disposition: form-data; name="image"; filename="p"',
    b'Content-Disposition: form-data; name="k"',
    b"Content-Type: image/png",
    b"AAAA",
    b"3",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("AAAA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SEARCHES = st.dictionaries(
    st.sampled_from(
        ["image", "image_url", "user", "k", "category", "min_price", "max_price", "in_stock", "system", "x"]
    ),
    VALUES,
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "user", "?"]) | VALUES,
        "shape": st.lists(st.integers(), max_size=3) | VALUES,
        "datatype": st.just("BYTES") | VALUES,
        "data": st.lists(st.just("AAAA") | VALUES, max_size=3) | VALUES,
    },
)
INFERENCES = st.fixed_dictionaries(
    {}, optional={"id": VALUES, "inputs": st.lists(TENSORS, max_size=3) | VALUES, "parameters": VALUES}
)


@seed(20261121)
@settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(search=SEARCHES, inference=INFERENCES)
def test_random_json_is_never_the_servers_mistake(server: RunningServer, search: Any, inference: Any) -> None:
    for path, body in (("/search", search), (INFER, inference)):
        text = json.dumps(body).encode()
        answer = server.client.post(path, content=text, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, body, answer.text)
        assert set(answer.json()) == {"error"}


@seed(20261121)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_photo_with_flipped_bytes_is_answered_or_refused(
    server: RunningServer, photo: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(photo)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    answer = server.client.post("/search", json={"image": base64.b64encode(damaged).decode()})
    assert answer.status_code in (200, 400), answer.text


@seed(20261121)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.sampled_from(FORM_PIECES) | st.binary(max_size=12), max_size=12))
def test_a_form_in_pieces_is_never_the_servers_mistake(server: RunningServer, parts: list[bytes]) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = server.client.post("/search", content=b"".join(parts), headers=headers)
    assert 400 <= answer.status_code < 500, (parts, answer.text)
    assert set(answer.json()) == {"error"}
