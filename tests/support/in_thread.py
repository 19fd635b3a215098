"""A web application that really listens, in a thread of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

PATIENCE = 240.0


def wait_until(condition: Callable[[], Any]) -> None:
    """Look again and again until it holds, for `PATIENCE` seconds at most."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "the server did not get there in time"
        time.sleep(0.02)


class InThread:
    """A uvicorn server in a thread; listens at `url`, which is None if it gave up as soon as it had begun."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self.thread = threading.Thread(target=server.run)
        self.thread.start()
        wait_until(lambda: server.started or not self.thread.is_alive())
        sockets = [socket for listening in server.servers for socket in listening.sockets]
        listens = self.thread.is_alive() and sockets
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}" if listens else None

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
