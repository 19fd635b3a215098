"""Searches over HTTP that name their photo by its URL: refused by default, or answered as photos that are sent."""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.picture_hosts import HOST, PUBLIC, URL, Internet, PictureHost, answering
from support.servers import RunningServer

from onevision.serving.photo_url import PhotoFetcher


@pytest.fixture(scope="module")
def off(bundle: Path) -> Iterator[RunningServer]:
    running = RunningServer(bundle=str(bundle)).wait_until_ready()
    yield running
    running.stop()


def refused(answer: Any, status: int, code: str, word: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert word in answer.json()["error"]["message"]


def test_a_server_fetches_nothing_until_its_operator_lists_a_host(off: RunningServer, photo: bytes) -> None:
    refused(off.client.post("/search", json={"image_url": URL}), 403, "image_url_off", "photo_hosts")
    refused(off.client.post("/search", files={"image_url": (None, URL)}), 403, "image_url_off", "photo_hosts")
    both = {"image": "AAAA", "image_url": URL}
    for wrong in ({}, {"k": 3}, both, {"image": None, "image_url": None}):
        refused(off.client.post("/search", json=wrong), 422, "invalid_request", "exactly one")
    refused(off.search(photo, image_url=URL), 422, "invalid_request", "exactly one")
    refused(off.client.post("/search", json={"image_url": "http://a.b/"}), 422, "invalid_request", "image_url: ")
    assert off.search(photo, image_url="").status_code == 200
    content = off.client.get("/openapi.json").json()["paths"]["/search"]["post"]["requestBody"]["content"]
    for body in content.values():
        assert {"image", "image_url"} < body["schema"]["properties"].keys()
        assert body["schema"]["oneOf"] == [{"required": ["image"]}, {"required": ["image_url"]}]


def test_a_fetched_photo_is_answered_as_one_that_is_sent(
    serve: Callable[..., RunningServer],
    bundle: Path,
    photo: bytes,
    host: PictureHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    internet = Internet(host, *[[PUBLIC]] * 4, ["10.0.0.1"])
    trusted = ssl.create_default_context(cafile=str(host.certificate))
    fetcher = partial(PhotoFetcher, resolve=internet.resolve, backend=internet, context=trusted)
    monkeypatch.setattr("onevision.serving.server.PhotoFetcher", fetcher)
    server = serve(bundle=str(bundle), settings={"photo_hosts": (HOST,), "max_pixels": 4_000_000})
    post = server.client.post
    host.answer = answering(photo)
    sent = server.search(photo, k=5).json()
    for answer in (
        post("/search", json={"image_url": URL, "k": 5}),
        post("/search", files={"image_url": (None, URL)}, data={"k": 5}),
    ):
        assert answer.status_code == 200, answer.text
        assert [hit["item_id"] for hit in answer.json()["hits"]] == [hit["item_id"] for hit in sent["hits"]]
    host.answer = answering(b"<html>no picture</html>")
    refused(post("/search", json={"image_url": URL}), 400, "unusable_image", "")
    large = io.BytesIO()
    Image.new("L", (2001, 2000)).save(large, "PNG")
    host.answer = answering(large.getvalue())
    refused(post("/search", json={"image_url": URL}), 400, "unusable_image", "2001 x 2000")
    refused(post("/search", json={"image_url": URL}), 424, "fetch_failed", "not public")
    refused(post("/search", json={"image_url": "https://shop.example/"}), 403, "host_not_allowed", "")
    assert server.metric('onevision_stage_seconds_count{stage="fetch"}') == 5
    assert server.metric("onevision_pending_photos") == 0
