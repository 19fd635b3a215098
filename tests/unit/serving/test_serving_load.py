"""The load of the benchmark: arrivals wait for nobody, and whatever comes back is counted as what it is."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from serving_load import open_loop, saturation


class Handler(BaseHTTPRequestHandler):
    """Answers in turn as its class says: a status, and seconds that it takes."""

    protocol_version = "HTTP/1.1"
    turns: list[tuple[int, float]]
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, seconds = self.turns[Handler.count % len(self.turns)]
        Handler.count += 1
        time.sleep(seconds)
        body = b'{"bundle": "b"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429 and Handler.count % 2:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.count = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_answers_are_counted_by_status_and_429s_want_a_reason(url: str) -> None:
    Handler.turns = [(200, 0.0), (429, 0.0), (200, 0.0), (503, 0.0), (429, 0.0)]
    tally = asyncio.run(open_loop(url, [b"photo"], rate=200.0, seconds=0.2))
    assert sum(tally.answers.values()) == 40
    assert (tally.answers[200], tally.answers[429], tally.answers[503]) == (16, 16, 8)
    assert tally.errors == 8
    assert 0 < tally.unexplained < 16
    assert len(tally.milliseconds) == tally.bundles["b"] == 16


def test_a_slow_server_does_not_slow_the_arrivals_and_waiting_counts(url: str) -> None:
    Handler.turns = [(200, 0.5)]
    began = time.perf_counter()
    tally = asyncio.run(open_loop(url, [b"photo"], rate=100.0, seconds=0.3))
    assert time.perf_counter() - began < 10, "one after the other they would take 15 seconds"
    assert tally.errors == 0
    assert tally.quantiles()["p50"] >= 500


def test_a_server_that_is_gone_is_an_error(url: str) -> None:
    Handler.turns = [(200, 0.01)]
    assert asyncio.run(saturation(url, [b"photo"], clients=2, seconds=0.2)) > 1
    tally = asyncio.run(open_loop("http://127.0.0.1:9", [b"photo"], rate=100.0, seconds=0.2))
    assert tally.errors == sum(tally.answers.values()) == tally.answers[0] == 20
