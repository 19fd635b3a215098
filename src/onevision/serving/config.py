"""Settings of the server: `onevision serve ... KEY=VALUE`."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import AnyUrl, Field, ValidationError, field_validator, model_validator

from onevision.config import Section
from onevision.precision import Precision

HOST_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
"""With a dot, and in ASCII and lower case; no address."""

BATCH_CAP = 64
"""What `max_batch` may be."""


class ServingConfig(Section):
    """Batching, limits and time-outs of a server."""

    model_name: str = Field("onevision", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="in /v2/models/<name>")
    max_batch: int = Field(8, ge=1, le=BATCH_CAP, description="photos ranked in one pass; 1 turns batching off")
    precision: Precision = Field(
        "fp32", description="of the generator's layers; auto: bf16 where the CPU has it natively, for wide models"
    )
    max_wait_ms: float = Field(2.0, ge=0, le=1000, description="time that an unfilled batch waits for more photos")
    max_pending: int = Field(64, ge=1, description="photos in work or waiting; beyond it requests are answered 429")
    max_k: int = Field(100, ge=1, le=1000, description="items that a request may ask for")
    no_match_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="hits with a smaller click probability are left out, of searches without a filter; 0: none are",
    )
    max_body_mb: float = Field(12.0, gt=0, description="megabytes (10^6 bytes) of a request's body")
    max_pixels: int = Field(25_000_000, ge=1, description="pixels of an uploaded picture")
    decode_threads: int = Field(
        2, ge=1, description="pictures decoded at a time; each may hold 8 bytes a pixel, WebP 17"
    )
    body_timeout_s: float = Field(20.0, gt=0, description="time that a client has to send its body")
    answer_timeout_s: float = Field(10.0, gt=0, description="time from the whole photo to the answer")
    photo_hosts: tuple[str, ...] = Field(
        (), description="hosts that photos may be fetched from, by exact name: `[img.shop.example]`; by default none"
    )
    photo_timeout_s: float = Field(
        5.0, gt=0, description="time to fetch a photo, from its host's name to its last byte"
    )
    photo_fetches: int = Field(
        16, ge=1, description="photos fetched at a time; beyond it requests that name a URL are answered 429"
    )
    lookup_timeout_ms: float = Field(50.0, gt=0, description="time to read a user before they count as cold")
    lookup_threads: int = Field(
        4, ge=1, description="users looked up at a time; others wait, within the same time limit"
    )
    user_time: Literal["snapshot", "request"] = Field(
        "snapshot", description="when a user's sequences must be alive: at the features' date, or now (a live shop)"
    )
    poll_s: float = Field(15.0, gt=0, description="time between two looks at the champion pointer")
    drain_s: float = Field(20.0, ge=1, description="time that requests in work have when the server is told to stop")

    @field_validator("photo_hosts")
    @classmethod
    def _as_urls_name_them(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host_name(name) for name in names)

    @model_validator(mode="after")
    def _a_whole_batch_may_be_pending(self) -> Self:
        if self.max_pending < self.max_batch:
            raise ValueError(f"max_pending is {self.max_pending}, less than the {self.max_batch} photos of max_batch")
        return self


def _host_name(text: str) -> str:
    """The name as it is in a URL that has been read: in ASCII (IDNA) and lower case."""
    try:
        url = AnyUrl(f"https://{text}/")
    except ValidationError:
        raise ValueError(f"{text!r} is no host name") from None
    name = url.host or ""
    more = url.port != 443 or url.username or url.path != "/" or url.query or url.fragment
    if more or not HOST_NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no host name; give whole names, such as img.shop.example, and nothing else")
    return name
