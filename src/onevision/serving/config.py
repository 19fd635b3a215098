"""Settings of the server: `onevision serve ... KEY=VALUE`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from onevision.config import Section


class ServingConfig(Section):
    """Batching, limits and time-outs of a server."""

    model_name: str = Field("onevision", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="in /v2/models/<name>")
    max_batch: int = Field(8, ge=1, le=64, description="photos ranked in one pass; 1 turns batching off")
    max_wait_ms: float = Field(2.0, ge=0, le=1000, description="time that an unfilled batch waits for more photos")
    max_pending: int = Field(64, ge=1, description="photos in work or waiting; beyond it requests are answered 429")
    max_k: int = Field(100, ge=1, le=1000, description="items that a request may ask for")
    no_match_below: float = Field(
        0.0, ge=0, lt=1, description="hits with a smaller click probability are left out; 0 answers with the best k"
    )
    max_body_mb: float = Field(12.0, gt=0, description="megabytes (10^6 bytes) of a request's body")
    max_pixels: int = Field(25_000_000, ge=1, description="pixels of an uploaded picture")
    decode_threads: int = Field(2, ge=1, description="pictures decoded at a time; each may hold 4 bytes a pixel")
    body_timeout_s: float = Field(20.0, gt=0, description="time that a client has to send its body")
    answer_timeout_s: float = Field(10.0, gt=0, description="time from the whole body to the answer")
    lookup_timeout_ms: float = Field(50.0, gt=0, description="time to read a user before they count as cold")
    lookup_threads: int = Field(4, ge=1, description="users looked up at a time; beyond it they count as cold")
    user_time: Literal["snapshot", "request"] = Field(
        "snapshot", description="when a user's sequences must be alive: at the features' date, or now (a live shop)"
    )
    poll_s: float = Field(15.0, gt=0, description="time between two looks at the champion pointer")
    drain_s: float = Field(20.0, ge=1, description="time that requests in work have when the server is told to stop")

    @model_validator(mode="after")
    def _a_whole_batch_may_be_pending(self) -> Self:
        if self.max_pending < self.max_batch:
            raise ValueError(f"max_pending is {self.max_pending}, less than the {self.max_batch} photos of max_batch")
        return self
