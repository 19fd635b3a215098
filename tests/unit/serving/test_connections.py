"""The head of a request is bounded in bytes and in time; what comes after it is not cut short by that."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.servers import RunningServer

from onevision.serving import connections

HEAD_S, BODY_S = 0.4, 1.2
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[RunningServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_S", HEAD_S)
        running = RunningServer(bundle=str(bundle), settings={"body_timeout_s": BODY_S}, ready=False)
        yield running
        running.stop()


@contextmanager
def connected(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        yield connection


def closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection, without a word."""
    try:
        return connection.recv(4096) == b""
    except ConnectionResetError:
        return True


def answered(connection: socket.socket) -> bool:
    """Whether the server says that it lives."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    return b" 200 " in answer


@pytest.mark.parametrize("large", [b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 200_000], ids=["header", "headers"])
def test_a_head_that_is_too_large_is_refused_before_it_has_ended(
    server: RunningServer, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1000)
    with connected(server) as connection:
        try:
            connection.sendall(GET + large)
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
        assert answer == b"" or b" 400 " in answer


@pytest.mark.parametrize("half", [b"", b"G", GET])
def test_a_head_that_never_ends_is_given_up(server: RunningServer, half: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(half)
        assert closed(connection)


def test_a_head_that_drips_is_given_up(server: RunningServer) -> None:
    with connected(server) as connection:
        ended = threading.Event()

        def drip() -> None:
            connection.sendall(GET)
            while not ended.wait(HEAD_S / 10):
                try:
                    connection.sendall(b"x: y\r\n")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert closed(connection)
        ended.set()
        dripping.join()


def test_the_second_head_of_a_connection_is_limited_as_the_first(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(GET + b"\r\n")
        assert answered(connection)
        time.sleep(1.5 * HEAD_S)
        connection.sendall(GET + b"\r\n")
        assert answered(connection), "an idle connection has the time that uvicorn gives it"
        connection.sendall(GET)
        assert closed(connection)


def test_a_body_has_its_own_time(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 9\r\n\r\n")
        time.sleep(2 * HEAD_S)
        connection.sendall(b'{"k": 0}\n')
        assert b" 422 " in connection.recv(4096)
