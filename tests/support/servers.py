"""A real server in a thread of the test, at a free port."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2 as httpx

from onevision.serving.config import ServingConfig
from onevision.serving.server import Server, Sources

PATIENCE = 60.0


class RunningServer:
    """Listens when the constructor returns; `settings` are `ServingConfig`'s."""

    def __init__(self, *, ready: bool = True, settings: dict[str, Any] | None = None, **sources: Any) -> None:
        config = ServingConfig(**({"poll_s": 0.05, "lookup_timeout_ms": 2000} | (settings or {})))
        self.server = Server(Sources(**sources), config, host="127.0.0.1", port=0)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        self._await(lambda: self.server.started or not self.thread.is_alive())
        sockets = [socket for listening in self.server.servers for socket in listening.sockets]
        if not self.thread.is_alive() or not sockets:  # it gave up as soon as it had begun
            return
        port = sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def wait_until_ready(self) -> RunningServer:
        self._await(lambda: self.client.get("/v2/health/ready").status_code == 200)
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

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    @staticmethod
    def _await(condition: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, "the server did not get there in time"
            time.sleep(0.02)
