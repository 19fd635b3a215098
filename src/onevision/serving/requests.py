"""What a client sends to /search: a photo as a form or as JSON, read within limits of bytes and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from onevision.decoding.filters import ItemFilter
from onevision.serving.config import ServingConfig
from onevision.serving.errors import RequestError, explain
from onevision.serving.search import GENERATOR, System

FORM, JSON = "multipart/form-data", "application/json"
MAX_TEXT = 256
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Search(BaseModel):
    """A search without its photo."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user: Text | None = Field(None, description="who searches; by default nobody known")
    k: int = Field(10, ge=1, description="items to find")
    category: Text | None = Field(None, description="only items of this category (name or id)")
    min_price: float | None = Field(None, ge=0)
    max_price: float | None = Field(None, ge=0)
    in_stock: bool = Field(False, description="only items in stock")
    system: System = Field(GENERATOR, description="what ranks; the cascade answers where the server was given one")

    def only(self) -> ItemFilter | None:
        """The filter that is asked for, None for all items; `OneVisionError` if its prices cannot be."""
        only = ItemFilter(self.category, self.min_price, self.max_price, self.in_stock)
        return None if only == ItemFilter() else only


class JsonSearch(Search):
    """A search as JSON."""

    model_config = ConfigDict(strict=True)

    image: str = Field(description="the photo's bytes in base64")


async def read_body(request: Request, config: ServingConfig) -> bytes:
    """The whole body; `RequestError` if it is over the cap, or is sent too slowly."""
    cap = int(config.max_body_mb * 1e6)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > cap:
        raise _too_large(config)
    parts, size = [], 0
    try:
        async with asyncio.timeout(config.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > cap:
                    raise _too_large(config)
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, "slow_body", f"the body did not arrive within {config.body_timeout_s:g} s") from None
    return b"".join(parts)


def _too_large(config: ServingConfig) -> RequestError:
    return RequestError(413, "too_large", f"the body is over {config.max_body_mb:g} MB; send a smaller picture")


async def read_search(request: Request, config: ServingConfig) -> tuple[bytes, Search]:
    """The photo and what is asked of it.

    Raises:
        RequestError: too large, too slow, not understood, or a value that is out of range.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise RequestError(415, "unsupported_media_type", f"send {FORM} or {JSON}, not {kind or 'nothing'!r}")
    body = await read_body(request, config)
    try:
        image, search = await _from_form(request, body) if kind == FORM else _from_json(body)
    except ValidationError as error:
        raise RequestError(422, "invalid_request", explain(error)) from None
    if search.k > config.max_k:
        raise RequestError(422, "invalid_request", f"k: {search.k} is over the cap of {config.max_k}")
    return image, search


def _from_json(body: bytes) -> tuple[bytes, Search]:
    found = JsonSearch.model_validate_json(body)
    return decode_base64(found.image, "image"), found


async def _from_form(request: Request, body: bytes) -> tuple[bytes, Search]:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    replay = Request(request.scope, receive)
    async with replay.form(max_files=1, max_fields=len(Search.model_fields)) as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise RequestError(422, "invalid_request", "image: a form needs the photo as a file under this name")
        names = [name for name, _ in form.multi_items()]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise RequestError(422, "invalid_request", f"{min(repeated)}: is there twice")
        values = {name: value for name, value in form.items() if name != "image" and value != ""}
        return await image.read(), Search.model_validate(values)


def decode_base64(text: str, name: str) -> bytes:
    """Bytes of base64 text; `RequestError` names the key."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "unusable_image", f"{name}: not base64 ({error})") from None
