"""The search page at `/`: static files of the package, and the shop's pictures if a snapshot is given."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from PIL import Image

from onevision.data.snapshot import Snapshot
from onevision.reporting.pictures import Thumbnails
from onevision.serving.config import ServingConfig
from onevision.serving.engine import Engine
from onevision.serving.errors import RequestError
from onevision.serving.requests import read_body

FOLDER = Path(str(resources.files("onevision.serving"))) / "page"
FILES = ("index.html", "page.css", "page.js", "crop.js")
PICTURE, CACHED_PICTURES, SHOWN_USERS, SAMPLES = 240, 2048, 50, 8
POLICY = "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class ShopWindow:
    """Pictures, and some users and shoppers' photos, of a snapshot, for trying a server out."""

    def __init__(self, snapshot: str) -> None:
        self._shop = shop = Snapshot.open(snapshot, verify=False)
        self._thumbnails = Thumbnails(shop, PICTURE)
        events = shop.table("events")
        users = events["user_id"].value_counts().to_pylist()
        users.sort(key=lambda row: (-row["counts"], row["values"]))
        self.users = [row["values"] for row in users[:SHOWN_USERS]]
        """The busiest ones first."""
        asked = events.filter(pc.is_valid(events["query_image_id"])).sort_by(
            [("ts", "descending"), ("query_id", "ascending")]
        )
        self.samples: list[str] = asked["query_image_id"].unique().slice(0, SAMPLES).to_pylist()
        """Photos of the newest searches, by `image_id`."""
        self.picture = lru_cache(CACHED_PICTURES)(self._picture)

    def sample(self, image_id: str) -> tuple[bytes, str] | None:
        """A sample as it was sent, and its media type; None of any other picture."""
        if image_id not in self.samples:
            return None
        data = self._shop.images.read(image_id)
        with Image.open(io.BytesIO(data)) as image:
            return data, Image.MIME[image.format or ""]

    def _picture(self, item_id: str) -> bytes | None:
        pixels = self._thumbnails.item_pixels(item_id)
        if pixels is None:
            return None
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        return stream.getvalue()


def router(engine: Engine, config: ServingConfig, window: ShopWindow | None) -> APIRouter:
    """The page, what it asks about the server, and the pictures that it shows."""
    routes = APIRouter(include_in_schema=False)

    def file(name: str) -> Callable[[], Awaitable[FileResponse]]:
        async def answer() -> FileResponse:
            return FileResponse(FOLDER / name, headers=HEADERS)

        return answer

    routes.get("/")(file(FILES[0]))
    for name in FILES[1:]:
        routes.get(f"/page/{name}")(file(name))

    @routes.get("/page/about")
    async def about() -> dict[str, Any]:
        return {
            "bundle": engine.searcher.bundle.identity,
            "cascade": engine.cascade,
            "categories": engine.searcher.categories,
            "max_k": config.max_k,
            "pictures": window is not None,
            "users": window.users if window else [],
            "samples": window.samples if window else [],
        }

    @routes.post("/page/crop")
    async def crop(request: Request) -> dict[str, Any]:
        with engine.admit():
            return {"crop": await engine.crop(await read_body(request, config))}

    @routes.get("/pictures/{item_id}")
    async def picture(item_id: str) -> Response:
        data = await asyncio.to_thread(window.picture, item_id) if window else None
        if data is None:
            raise RequestError(404, "not_found", "no picture of this item")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})

    @routes.get("/samples/{image_id}")
    async def sample(image_id: str) -> Response:
        found = await asyncio.to_thread(window.sample, image_id) if window else None
        if found is None:
            raise RequestError(404, "not_found", "no sample of this name")
        data, media_type = found
        return Response(data, media_type=media_type, headers={**HEADERS, "Cache-Control": "max-age=3600"})

    return routes
