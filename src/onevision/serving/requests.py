"""What a client sends to /search: a photo or its URL, as a form or as JSON, read within limits of bytes and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onevision.decoding.filters import ItemFilter
from onevision.serving.capped import read_capped
from onevision.serving.config import ServingConfig
from onevision.serving.errors import RequestError, explain
from onevision.serving.photo_url import PhotoFetcher, PhotoUrl
from onevision.serving.search import GENERATOR, System

FORM, JSON = "multipart/form-data", "application/json"
MAX_TEXT = 256
MAX_VALUES = 20_000
"""Values that a JSON body may hold: more than any request that can be answered does."""
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Search(BaseModel):
    """A search without the bytes of its photo."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image_url: PhotoUrl | None = Field(
        None, description="where the photo is, instead of `image`: HTTPS, at a host that the server's operator listed"
    )
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


def one_photo(schema: dict[str, Any]) -> None:
    """Let a JSON schema ask for exactly one of `image` and `image_url`."""
    schema["oneOf"] = [{"required": ["image"]}, {"required": ["image_url"]}]


class JsonSearch(Search):
    """A search as JSON."""

    model_config = ConfigDict(strict=True, json_schema_extra=one_photo)

    image: str | None = Field(None, description="the photo's bytes in base64")


async def read_body(request: Request, config: ServingConfig) -> bytes:
    """The whole body; `RequestError` if it is over the cap, or is sent too slowly."""
    cap, length = config.max_body_mb, request.headers.get("content-length", "")
    too_large = f"the body is over {cap:g} MB; send a smaller picture"
    try:
        async with asyncio.timeout(config.body_timeout_s):
            return await read_capped(request.stream(), length, cap, too_large)
    except TimeoutError:
        raise RequestError(408, "slow_body", f"the body did not arrive within {config.body_timeout_s:g} s") from None


async def read_json(request: Request, config: ServingConfig) -> bytes:
    """As `read_body`, and `RequestError` if it holds over `MAX_VALUES`: what parsing makes of them is many times their
    bytes. Every value but the outermost follows one of the marks that are counted, or a colon in a pair that does."""
    body = await read_body(request, config)
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise RequestError(413, "too_large", f"the body has over {MAX_VALUES} values; no request needs so many")
    return body


async def read_search(request: Request, config: ServingConfig, photos: PhotoFetcher | None) -> tuple[bytes, Search]:
    """The photo and what is asked of it.

    Args:
        photos: fetches a photo that is named by its URL; None if the server does not.

    Raises:
        RequestError: too large, too slow, not understood, a value that is out of range, or a photo that is not to be
            had.
        OverloadedError: too many photos are being fetched.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise RequestError(415, "unsupported_media_type", f"send {FORM} or {JSON}, not {kind or 'nothing'!r}")
    try:
        if kind == FORM:
            image, search = await _from_form(request, await read_body(request, config))
        else:
            image, search = _from_json(await read_json(request, config))
    except ValidationError as error:
        raise RequestError(422, "invalid_request", explain(error)) from None
    if search.k > config.max_k:
        raise RequestError(422, "invalid_request", f"k: {search.k} is over the cap of {config.max_k}")
    if search.image_url is None:
        return image, search
    if photos is None:
        raise RequestError(
            403, "image_url_off", "image_url: this server fetches no photos; its operator turns it on by `photo_hosts`"
        )
    return await photos.fetch(search.image_url), search


def _need_one(image: object, url: object) -> None:
    if (image is None) == (url is None):
        raise RequestError(422, "invalid_request", "image, image_url: send exactly one of the two")


def _from_json(body: bytes) -> tuple[bytes, Search]:
    found = JsonSearch.model_validate_json(body)
    _need_one(found.image, found.image_url)
    return decode_base64(found.image or "", "image"), found


async def _from_form(request: Request, body: bytes) -> tuple[bytes, Search]:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    replay = Request(request.scope, receive)
    async with replay.form(max_files=1, max_fields=len(Search.model_fields)) as form:
        image = form.get("image")
        if isinstance(image, str):
            raise RequestError(422, "invalid_request", "image: a form needs the photo as a file under this name")
        names = [name for name, _ in form.multi_items()]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise RequestError(422, "invalid_request", f"{min(repeated)}: is there twice")
        values = {name: value for name, value in form.items() if name != "image" and value != ""}
        _need_one(image, values.get("image_url"))
        return b"" if image is None else await image.read(), Search.model_validate(values)


def decode_base64(text: str, name: str) -> bytes:
    """Bytes of base64 text; `RequestError` names the key."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "unusable_image", f"{name}: not base64 ({error})") from None
