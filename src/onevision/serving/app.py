"""The server's web application: searches, the open inference protocol, the page, and what it tells of itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onevision import __version__
from onevision.serving import page, protocol
from onevision.serving.champion import Champion
from onevision.serving.config import ServingConfig
from onevision.serving.engine import Engine
from onevision.serving.errors import add_handlers
from onevision.serving.photo_url import PhotoFetcher
from onevision.serving.requests import FORM, JSON, JsonSearch, Search, one_photo, read_search
from onevision.serving.telemetry import Telemetry


def create_app(
    engine: Engine,
    champion: Champion,
    config: ServingConfig,
    telemetry: Telemetry,
    *,
    window: page.ShopWindow | None = None,
    photos: PhotoFetcher | None = None,
    failed: Callable[[BaseException], None],
) -> FastAPI:
    """The application of one server; it loads its bundle after it has begun to listen.

    Args:
        window: what the search page shows beside the hits.
        photos: fetches photos that searches name by their URL; without it such searches are refused.
        failed: called when the bundle cannot be served and no other is to be waited for.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        following = asyncio.create_task(champion.follow(config.poll_s))
        following.add_done_callback(lambda task: _report(task, failed))
        yield
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await engine.stop()
        telemetry.tracing.stop()

    app = FastAPI(title="OneVision", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    add_handlers(app)

    @app.post("/search", openapi_extra={"requestBody": _search_body()})
    async def search(request: Request) -> dict[str, Any]:
        with engine.admit():
            image, asked = await read_search(request, config, photos)
            answer, searcher = await engine.answer(image, asked.user, asked.k, asked.only(), asked.system)
        return {"bundle": searcher.bundle.identity, **asdict(answer)}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(protocol.router(engine, config))
    app.include_router(page.router(engine, config, window))
    app.add_middleware(Measured, telemetry=telemetry)
    return app


def _report(task: asyncio.Task[None], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        failed(error)


def _search_body() -> dict[str, Any]:
    form = Search.model_json_schema()
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": "the photo"}
    one_photo(form)
    return {"required": True, "content": {FORM: {"schema": form}, JSON: {"schema": JsonSearch.model_json_schema()}}}


class Measured:
    """Counts answers and their time by route; a path that is no route counts as `other`, so that labels stay few."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count what was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._telemetry.tracing.request(scope) as span:
            try:
                await self._app(scope, receive, watched)
            except Exception:
                status = 500
                raise
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._telemetry.requests.labels(route, str(status)).inc()
                self._telemetry.seconds.labels(route).observe(time.perf_counter() - started)
                span |= {"http.route": route, "http.response.status_code": status}
