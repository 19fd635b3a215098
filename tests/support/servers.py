"""Real servers: in a thread of the test, or as the process that `onevision serve` is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2 as httpx
import psutil
from support.in_thread import PATIENCE, InThread, wait_until

from onevision.serving.config import ServingConfig
from onevision.serving.server import Server, Sources

FEAST_SETS = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
"""What an import of Feast's feature server leaves in the environment; the values of a server's metrics go there."""


class Listening:
    """What a test asks of a server that listens at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)

    def wait_until_ready(self) -> Self:
        wait_until(lambda: self.client.get("/v2/health/ready").status_code == 200)
        return self

    def search(self, photo: bytes, **fields: Any) -> httpx.Response:
        """POST /search as a form."""
        return self.client.post("/search", files={"image": ("photo", photo)}, data=fields)

    def metric(self, name: str) -> float:
        """The value of a series, such as `onevision_ready`; 0 if there is none."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0


class RunningServer(Listening):
    """In a thread, at a free port; listens when the constructor returns. `settings` are `ServingConfig`'s."""

    def __init__(self, *, ready: bool = True, settings: dict[str, Any] | None = None, **sources: Any) -> None:
        config = ServingConfig(**({"poll_s": 0.05, "lookup_timeout_ms": 2000} | (settings or {})))
        self.server = Server(Sources(**sources), config, host="127.0.0.1", port=0)
        running = InThread(self.server)
        self.thread, self.stop = running.thread, running.stop
        if running.url:
            super().__init__(running.url)


class ServerProcess(Listening):
    """A server that is a process of its own."""

    def __init__(self, url: str, process: psutil.Popen) -> None:
        super().__init__(url)
        self.process = process

    @property
    def memory_mb(self) -> float:
        """Its resident memory in megabytes (10^6 bytes)."""
        return float(self.process.memory_info().rss / 1e6)


@contextmanager
def server_process(log: Path, *words: str) -> Iterator[ServerProcess]:
    """`onevision serve` with these words at a free port, ready; what it says goes to the file `log`."""
    command = [sys.executable, "-m", "onevision", "serve", *words, "--port", "0"]
    clean = {name: value for name, value in os.environ.items() if name not in FEAST_SETS}
    with log.open("w") as stream:
        process = psutil.Popen(command, stderr=stream, env=clean | {"OMP_NUM_THREADS": "1"})
    try:
        wait_until(lambda: "running on" in log.read_text() or process.poll() is not None)
        address = re.search(r"running on (\S+)", log.read_text())
        assert address, log.read_text()
        yield ServerProcess(address[1], process).wait_until_ready()
    finally:
        if process.is_running():
            process.terminate()
        process.wait(PATIENCE)
