"""Run the server: load what it needs, listen, follow the champion, and stop without dropping a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from onevision.serving.app import create_app
from onevision.serving.cascade import open_evaluation
from onevision.serving.champion import Champion
from onevision.serving.config import ServingConfig
from onevision.serving.connections import Connection
from onevision.serving.engine import Engine
from onevision.serving.page import ShopWindow
from onevision.serving.photo_url import PhotoFetcher
from onevision.serving.telemetry import Telemetry
from onevision.serving.tracing import Tracing
from onevision.serving.users import Sequences, UserLookup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What a server serves: exactly one of `bundle` and `store`, and what goes with it.

    Attributes:
        bundle: a bundle; store: a bundle store whose champion is followed. Each a folder or gs://bucket/prefix.
        users: the user store, None if everybody is a cold user.
        snapshot: where the search page takes pictures and users from.
        cascade: an `evaluation` artifact whose cascade can be asked as well.
    """

    bundle: str | None = None
    store: str | None = None
    users: Sequences | None = None
    snapshot: str | None = None
    cascade: Path | None = None


def make_app(sources: Sources, config: ServingConfig, failed: Callable[[BaseException], None]) -> FastAPI:
    """The application for these sources; only the snapshot's tables are loaded before it is started.

    Raises:
        OneVisionError: a source that is missing or named twice.
    """
    telemetry = Telemetry(Tracing.from_environment())
    evaluation = open_evaluation(sources.cascade) if sources.cascade else None
    champion = Champion(
        sources.bundle,
        sources.store,
        batch=config.max_batch,
        precision=config.precision,
        telemetry=telemetry,
        evaluation=evaluation,
    )
    if (store := sources.users) is not None:
        telemetry.features_as_of.set_function(lambda: store.as_of.timestamp())
    users = UserLookup(
        sources.users,
        timeout=config.lookup_timeout_ms / 1000,
        threads=config.lookup_threads,
        at_request=config.user_time == "request",
        count=lambda outcome: telemetry.lookups.labels(outcome).inc(),
    )
    window = ShopWindow(sources.snapshot) if sources.snapshot else None
    photos = PhotoFetcher(config, telemetry) if config.photo_hosts else None
    engine = Engine(champion, users, config, telemetry)
    return create_app(engine, champion, config, telemetry, window=window, photos=photos, failed=failed)


class Server(uvicorn.Server):
    """A uvicorn server that also ends when its bundle cannot be served; `error` then says why."""

    def __init__(self, sources: Sources, config: ServingConfig, *, host: str, port: int) -> None:
        self.error: BaseException | None = None
        app = make_app(sources, config, self._fail)
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Connection,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=int(config.drain_s),
            )
        )

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.should_exit = True


def serve(sources: Sources, config: ServingConfig, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in work.

    Raises:
        OneVisionError: a source that cannot be served.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    server = Server(sources, config, host=host, port=port)
    server.run()
    if server.error is not None:
        raise server.error
