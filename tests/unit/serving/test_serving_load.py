"""The load of the benchmark: arrivals wait for nobody, and whatever comes back is counted as what it is."""

from __future__ import annotations

import subprocess
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
    body: bytes
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, seconds = self.turns[Handler.count % len(self.turns)]
        Handler.count += 1
        time.sleep(seconds)
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.body)))
        if status == 429 and Handler.count % 2:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.count, Handler.body = 0, b'{"bundle": "b"}'
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    return tmp_path


def test_answers_are_counted_by_status_and_429s_want_a_reason(url: str, photos: Path) -> None:
    Handler.turns = [(200, 0.0), (429, 0.0), (200, 0.0), (503, 0.0), (429, 0.0)]
    tally = open_loop(url, photos, rate=200.0, seconds=0.2)
    assert sum(tally.answers.values()) == 40
    assert (tally.answers[200], tally.answers[429], tally.answers[503]) == (16, 16, 8)
    assert tally.errors == 8
    assert 0 < tally.unexplained < 16
    assert len(tally.milliseconds) == tally.bundles["b"] == 16


def test_a_slow_server_does_not_slow_the_arrivals_and_waiting_counts(url: str, photos: Path) -> None:
    Handler.turns = [(200, 0.5)]
    tally = open_loop(url, photos, rate=100.0, seconds=0.3)
    assert tally.seconds < 10, "one after the other they would take 15 seconds"
    assert tally.errors == 0
    assert tally.quantiles()["p50"] >= 500


def test_a_server_that_is_gone_is_an_error(photos: Path) -> None:
    tally = open_loop("http://127.0.0.1:9", photos, rate=100.0, seconds=0.2)
    assert tally.errors == sum(tally.answers.values()) == tally.answers[0] == 20


def test_clients_ask_again_as_soon_as_they_are_answered(url: str, photos: Path) -> None:
    Handler.turns = [(200, 0.1)]
    assert 0 < saturation(url, photos, clients=2, seconds=4) <= 2 / 0.1
    assert Handler.count > 2


def test_an_answer_of_another_form_ends_the_load_with_an_error(url: str, photos: Path) -> None:
    Handler.turns = [(200, 0.0)]
    Handler.body = b"{}"
    with pytest.raises(subprocess.CalledProcessError):
        open_loop(url, photos, rate=100.0, seconds=0.2)
