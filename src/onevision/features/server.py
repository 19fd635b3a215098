"""Feast's own feature server, reading only, on the publication that is served now and on the next one as it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from typing import Any

import uvicorn
from feast.feature_server import get_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from onevision.errors import SettingError
from onevision.features.definitions import SERVICE, USER_KEY
from onevision.features.shared import LOOK_S, NOTHING_PUBLISHED, Publication, open_project, served_publication
from onevision.features.targets import PRODUCTION, VARIABLE, chosen_target, configuration

log = logging.getLogger(__name__)

READS = frozenset({"/get-online-features", "/openapi.json", "/docs"})
"""Feast's routes that are served; those that write, search or chat are not."""

DRAIN_S = 20
"""Seconds for what is in work when the server is told to stop."""


class PublishedFeatures:
    """Feast's server on one publication. Opening it asks the registry; reading asks Redis alone.

    Feast's own start is left out: it would read the registry again, which for a publication never changes, and run a
    `static_artifacts.py` that lies in the working directory.

    Attributes:
        publication: what is read.
        in_work: requests that have begun and not ended.
    """

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self.in_work = 0
        self._store = open_project(publication.project)
        self._service = self._store.get_feature_service(SERVICE)
        self._app = get_app(self._store, registry_ttl_sec=0)
        self._store.registry.write_engine.dispose()  # the registry has been read
        self._app.router.routes[:] = [route for route in self._app.routes if getattr(route, "path", None) in READS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with self._working():
            await self._app(scope, receive, send)

    async def read(self) -> None:
        """Read a stranger; whatever Feast or Redis raise if that fails."""
        with self._working():
            await self._store.get_online_features_async(features=self._service, entity_rows={USER_KEY: [""]})

    async def close(self) -> None:
        """Close the connections to Redis: `FeatureStore.close()` leaves them open."""
        client = await self._store.provider.online_store._get_client_async(self._store.config.online_store)
        await client.aclose()

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.in_work += 1
        try:
            yield
        finally:
            self.in_work -= 1


class FeatureServer:
    """The ASGI application that answers from the newest publication.

    A newer one is opened beside it, warm, and takes the requests that come from then on; a request in work ends on the
    one it began with. While the registry cannot be read, the publication that is open stays.
    """

    def __init__(self, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._index: Any = None
        self._features: PublishedFeatures | None = None
        self._over: list[PublishedFeatures] = []
        self._missing = NOTHING_PUBLISHED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Feast's server; 503 while there is nothing to read."""
        answer = self._features or _unavailable(self._missing)
        await answer(scope, receive, send)

    async def health(self, _: Request) -> JSONResponse:
        """200 and the publication if a row of it can be read now, otherwise 503 and why."""
        features = self._features
        if features is None:
            return _unavailable(self._missing)
        try:
            await features.read()
        except Exception as error:
            log.warning("the shared store does not answer: %s", error)
            return _unavailable(f"the features of {features.publication.as_of} cannot be read")
        return JSONResponse(asdict(features.publication))

    async def follow(self, stopping: asyncio.Event) -> None:
        """Look for a newer publication until it is stopping; redis-py may swallow a cancellation alone."""
        while not stopping.is_set():
            try:
                await self._look()
            except Exception:
                self._missing = "the shared feature store cannot be opened: the server's log says why"
                log.exception("the shared feature store cannot be opened")
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self._look_s)

    async def _look(self) -> None:
        for idle in [features for features in self._over if not features.in_work]:
            self._over.remove(idle)
            await idle.close()
        self._index = self._index or await asyncio.to_thread(open_project)
        served = await asyncio.to_thread(served_publication, self._index)
        self._missing = NOTHING_PUBLISHED
        if served and (self._features is None or served != self._features.publication):
            features = await asyncio.to_thread(PublishedFeatures, served)
            await features.read()  # the first read is the slow one
            self._over += [self._features] if self._features else []
            self._features = features
            log.info("serving features of %s", served.as_of)


def create_app(look_s: float = LOOK_S) -> Starlette:
    """Feast's read endpoints, `/health` (a publication can be read) and `/live` (the process answers).

    Raises:
        SettingError: the environment does not name the target `production`, or not all of its addresses.
    """
    if chosen_target() != PRODUCTION:
        raise SettingError(f"{VARIABLE} is not {PRODUCTION}: the feature server reads the shared store")
    configuration(PRODUCTION)  # a variable that is missing will not come by waiting
    server = FeatureServer(look_s)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        following = asyncio.create_task(server.follow(stopping))
        yield
        stopping.set()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    routes = [Route("/live", _live), Route("/health", server.health), Mount("", app=server)]
    return Starlette(routes=routes, lifespan=lifespan)


def serve(*, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in work.

    Raises:
        SettingError: as `create_app`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(),
        host=host,
        port=port,
        http="h11",  # httptools holds a head of any size
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=DRAIN_S,
    )


async def _live(_: Request) -> JSONResponse:
    return JSONResponse({"live": True})


def _unavailable(why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, status_code=503)
