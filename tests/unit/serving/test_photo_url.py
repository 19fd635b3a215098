"""A photo by its URL: only from listed hosts, at public addresses, by HTTPS, within limits; every rule broken once."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
import zlib
from typing import Any

import pytest
from pydantic import AnyUrl, ValidationError
from support.picture_hosts import (
    HOST,
    IDNA,
    PUBLIC,
    UNCERTIFIED,
    URL,
    Answer,
    Internet,
    PictureHost,
    answering,
)

from onevision.recipe import RecipeError, section_of
from onevision.serving.config import ServingConfig
from onevision.serving.engine import OverloadedError
from onevision.serving.errors import RequestError
from onevision.serving.photo_url import PhotoFetcher
from onevision.serving.requests import JsonSearch
from onevision.serving.telemetry import Telemetry


def test_a_photo_is_asked_for_at_the_checked_address_and_by_its_name(host: PictureHost) -> None:
    internet = Internet(host)
    assert internet.fetch(f"https://{HOST}/a%20b.jpg?size=2#part") == b"the photo"
    assert (internet.resolved, internet.connected, host.names) == ([HOST], [(PUBLIC, 443)], [HOST])
    line, *head = host.asked[0].decode().split("\r\n")
    assert line == "GET /a%20b.jpg?size=2 HTTP/1.1"
    sent = dict(row.split(": ", 1) for row in head if row)
    assert sent.keys() == {"Host", "Accept", "Accept-Encoding", "User-Agent"}
    assert (sent["Host"], sent["Accept-Encoding"]) == (HOST, "identity")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"http://{HOST}/", "scheme should be 'https'"),
        (f"http://{HOST}:443/", "scheme should be 'https'"),
        (f"ftp://{HOST}/", "https"),
        ("file:///etc/passwd", "https"),
        (f"https://{HOST}:8443/", "443"),
        (f"https://ann@{HOST}/", "user name"),
        (f"https://ann:secret@{HOST}/", "user name"),
        (f"https://{HOST}/{'a' * 2048}", "2048"),
        ("photo.jpg", "valid URL"),
        ("", "valid URL|at least 1"),
    ],
)
def test_a_url_that_is_no_plain_https_is_refused_as_it_is_read(url: str, word: str) -> None:
    assert str(JsonSearch.model_validate_json(json.dumps({"image_url": URL})).image_url) == URL
    with pytest.raises(ValidationError, match=word):
        JsonSearch.model_validate_json(json.dumps({"image_url": url}))


@pytest.mark.parametrize(
    "name",
    [
        "shop.example",
        f"evil.{HOST}",
        f"evil{HOST}",
        f"{HOST}.evil.example",
        f"{HOST}.",
        f"evil.example\\@{HOST}",
        f"evil.example#@{HOST}",
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:93.184.215.14]",
        PUBLIC,
        "localhost",
        "metadata.google.internal",
    ],
)
def test_a_host_that_is_not_listed_is_not_even_resolved(host: PictureHost, name: str) -> None:
    internet = Internet(host)
    internet.refuse(403, "not fetched from this host", f"https://{name}/")
    assert internet.resolved == internet.connected == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("IMG.Shop.Example", HOST),
        ("img\u3002shop\uff0eexample", HOST),
        ("Bücher.example", IDNA),
        (IDNA.upper(), IDNA),
    ],
)
def test_a_name_is_compared_in_ascii_and_lower_case(host: PictureHost, name: str, asked: str) -> None:
    internet = Internet(host)
    assert internet.fetch(f"https://{name}/") == b"the photo"
    assert internet.resolved == host.names == [asked]


def test_only_whole_names_can_be_listed() -> None:
    listed = section_of(ServingConfig, [f"photo_hosts=[IMG.Shop.example, {IDNA}]"]).photo_hosts
    assert listed == (HOST, IDNA) == ServingConfig(photo_hosts=(HOST, "bücher.example")).photo_hosts
    urls = "*.shop.example https://img.shop.example img.shop.example:8443 ann@shop.example shop.example/x"
    for name in [
        *urls.split(),
        "127.0.0.1",
        "2130706433",
        "[::1]",
        "localhost",
        "shop.example.",
        "shop.example?x",
        "shop.example#x",
        "",
    ]:
        with pytest.raises(RecipeError, match="is no host name"):
            section_of(ServingConfig, [f"photo_hosts=[{name!r}]"])


def test_redirects_are_not_followed(host: PictureHost) -> None:
    for status in ("301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
        host.answer = answering(b"", f"Location: https://{HOST}/other\r\n", status)
        internet = Internet(host)
        internet.refuse(424, f"answered {status[:3]}")
        assert len(internet.connected) == 1
    assert len(host.asked) == 4


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "404 Not Found", "500 Oh"])
def test_only_200_is_a_photo(host: PictureHost, status: str) -> None:
    host.answer = answering(b"" if status[:3] == "204" else b"text", status=status)
    Internet(host).refuse(424, f"answered {status[:3]}")


def test_cookies_and_connections_do_not_outlive_a_fetch(host: PictureHost) -> None:
    host.answer = answering(b"the photo", "Set-Cookie: a=b; Path=/\r\nConnection: keep-alive\r\n")
    fetcher = Internet(host).fetcher()

    async def twice() -> list[bytes]:
        return [await fetcher.fetch(AnyUrl(URL)) for _ in range(2)]

    assert asyncio.run(twice()) == [b"the photo"] * 2
    assert len(host.names) == len(host.asked) == 2
    assert b"ookie" not in host.asked[1]


def test_proxies_of_the_environment_are_not_used(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    internet = Internet(host)
    assert internet.fetch() == b"the photo"
    assert internet.connected == [(PUBLIC, 443)]


def test_a_certificate_must_be_trusted_and_of_the_name(host: PictureHost) -> None:
    Internet(host).refuse(424, "by HTTPS", f"https://{UNCERTIFIED}/")
    internet = Internet(host)
    fetcher = PhotoFetcher(
        ServingConfig(photo_hosts=(HOST,)), Telemetry(), resolve=internet.resolve, backend=internet
    )  # which trusts the system's authorities
    with pytest.raises(RequestError, match="by HTTPS"):
        asyncio.run(fetcher.fetch(AnyUrl(URL)))
    assert host.asked == []


def endless(to: ssl.SSLSocket) -> None:
    to.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        to.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")


def endless_head(to: ssl.SSLSocket) -> None:
    to.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        to.sendall(b"X: " + b"x" * 8_000 + b"\r\n")


def endless_beginning(to: ssl.SSLSocket) -> None:
    while True:
        to.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def slow(to: ssl.SSLSocket) -> None:
    to.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        to.sendall(b"x")
        time.sleep(0.02)


def no_tls_any_more(to: ssl.SSLSocket) -> None:
    with socket.socket(fileno=to.detach()) as plain:
        plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))


def test_a_photo_over_the_cap_is_given_up_as_soon_as_that_is_known(host: PictureHost) -> None:
    internet = Internet(host)
    host.answer = answering(bytes(100_000))
    assert len(internet.fetch(max_body_mb=0.1)) == 100_000
    internet.refuse(413, r"over 0\.0999 MB", max_body_mb=0.0999)
    host.answer = answering(b"", "Content-Length: 999999999999\r\n")
    internet.refuse(413, "over 12 MB")
    host.answer = endless
    internet.refuse(413, r"over 0\.3 MB", max_body_mb=0.3)
    assert host.broken.wait(10)


def test_a_compressed_photo_is_refused_and_not_unpacked(host: PictureHost) -> None:
    bomb = zlib.compress(bytes(5_000_000))
    for encoding in ("gzip", "br", "identity, gzip"):
        host.answer = answering(bomb, f"Content-Encoding: {encoding}\r\n")
        Internet(host).refuse(424, "content encoding")
    host.answer = answering(bomb, "Transfer-Encoding: gzip, chunked\r\n")
    Internet(host).refuse(424, "broke off")
    host.answer = answering(b"the photo", "Content-Encoding: identity\r\n")
    assert Internet(host).fetch() == b"the photo"


@pytest.mark.parametrize("answer", [slow, endless_beginning, lambda to: time.sleep(2)])
def test_a_fetch_has_a_time_limit_as_a_whole(host: PictureHost, answer: Answer) -> None:
    host.answer = answer
    started = time.monotonic()
    Internet(host).refuse(424, r"within 0\.3 s", photo_timeout_s=0.3)
    assert time.monotonic() - started < 2


def test_a_resolver_that_hangs_is_within_the_time_limit(host: PictureHost) -> None:
    internet = Internet(host)

    async def hang(name: str) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    internet.resolve = hang  # type: ignore[method-assign]
    internet.refuse(424, r"within 0\.1 s", photo_timeout_s=0.1)


@pytest.mark.parametrize(
    "answer",
    [
        endless_head,
        no_tls_any_more,
        lambda to: None,
        lambda to: to.sendall(b"SSH-2.0-OpenSSH\r\n"),
        answering(b"", "Upgrade: x\r\n", "101 Switching Protocols"),
        answering(b"cut", "Content-Length: 10\r\n"),
        answering(b"", "Content-Length: -1\r\n"),
        answering(b"zz\r\n", "Transfer-Encoding: chunked\r\n"),
        answering(b"two", "Content-Length: 3\r\nContent-Length: 4\r\n"),
    ],
)
def test_a_host_that_speaks_no_http_is_its_own_mistake(host: PictureHost, answer: Answer) -> None:
    host.answer = answer
    Internet(host).refuse(424, "broke off")


def test_fetches_beyond_the_cap_are_shed_and_places_come_free(host: PictureHost) -> None:
    internet, full = Internet(host), threading.Event()
    host.answer = lambda to: (full.wait(10), answering(b"the photo")(to))[1]
    fetcher = internet.fetcher(photo_fetches=2)

    async def three() -> list[Any]:
        first = [asyncio.create_task(fetcher.fetch(AnyUrl(URL))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as shed:
            await fetcher.fetch(AnyUrl(URL))
        assert shed.value.retry_after == 5
        full.set()
        return [*await asyncio.gather(*first), await fetcher.fetch(AnyUrl(URL))]

    assert asyncio.run(three()) == [b"the photo"] * 3
