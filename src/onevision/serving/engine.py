"""One search, from bytes to hits: decode, look the user up, wait for a batch, rank."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from onevision.decoding.filters import ItemFilter
from onevision.features.definitions import UserSequences
from onevision.serving.answers import Answer, only_matches
from onevision.serving.batching import Batcher
from onevision.serving.champion import Champion
from onevision.serving.config import ServingConfig
from onevision.serving.crop import Box, detect_crop
from onevision.serving.search import GENERATOR, Searcher, System
from onevision.serving.telemetry import Telemetry
from onevision.serving.users import UserLookup

T = TypeVar("T")
SMOOTHING = 0.1
"""Weight of the newest batch in the running mean of seconds a photo, which `Retry-After` is computed from."""


class NotReadyError(Exception):
    """No bundle is warm yet."""


class SlowAnswerError(Exception):
    """The answer took longer than it may."""


class OverloadedError(Exception):
    """Too many photos are pending; `retry_after` says in how many seconds they will be done."""

    def __init__(self, pending: int, retry_after: int) -> None:
        super().__init__(f"{pending} photos are pending; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class _Job:
    searcher: Searcher
    pixels: NDArray[np.uint8]
    user: UserSequences
    k: int
    only: ItemFilter | None
    system: System


class Engine:
    """Answers searches with whatever bundle the champion is; a request keeps the one that it began with."""

    def __init__(self, champion: Champion, users: UserLookup, config: ServingConfig, telemetry: Telemetry) -> None:
        self._champion = champion
        self._users = users
        self._config = config
        self._telemetry = telemetry
        self._pending = 0
        self._seconds_a_photo = 0.0
        self._decoders = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")
        self._batcher: Batcher[_Job, Answer] = Batcher(
            self._rank,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            observe=telemetry.stage.labels("queue").observe,
        )

    def start(self) -> None:
        """Begin to rank, in the running event loop."""
        self._batcher.start()

    async def stop(self) -> None:
        """End the threads; searches that still wait are cancelled."""
        await self._batcher.stop()
        self._users.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    @property
    def searcher(self) -> Searcher:
        """The bundle that answers now; `NotReadyError` before one is warm."""
        if self._champion.searcher is None:
            raise NotReadyError("no bundle is loaded yet")
        return self._champion.searcher

    @property
    def cascade(self) -> Literal["none", "off", "on"]:
        """Whether a cascade answers too: the server was given none, or one that is of another catalogue now."""
        if self._champion.evaluation is None:
            return "none"
        return "on" if self.searcher.cascade else "off"

    @contextmanager
    def admit(self, photos: int = 1) -> Iterator[None]:
        """Count photos as pending while the block runs; `OverloadedError` if there are too many already."""
        if self._pending + photos > self._config.max_pending:
            self._telemetry.shed.inc()
            raise OverloadedError(self._pending, max(1, math.ceil(self._pending * self._seconds_a_photo)))
        self._pending += photos
        self._telemetry.pending.set(self._pending)
        try:
            yield
        finally:
            self._pending -= photos
            self._telemetry.pending.set(self._pending)

    async def answer(
        self, image: bytes, user_id: str | None, k: int, only: ItemFilter | None, system: System = GENERATOR
    ) -> tuple[Answer, Searcher]:
        """The answer to one photo, and the bundle that gave it.

        Raises:
            ImageError: the bytes are no usable picture.
            OneVisionError: a filter that no item can pass, or a cascade that is not there.
            NotReadyError, SlowAnswerError: the server's own trouble.
        """
        searcher = self.searcher
        try:
            async with asyncio.timeout(self._config.answer_timeout_s):
                (sequences, notes), pixels = await asyncio.gather(
                    self._timed("lookup", self._users.find(user_id)), self._decode(searcher, image)
                )
                with self._telemetry.tracing.span("rank"):  # the queue included
                    answer = await self._batcher.submit(_Job(searcher, pixels, sequences, k, only, system))
        except TimeoutError:
            raise SlowAnswerError(f"no answer within {self._config.answer_timeout_s:g} s") from None
        answer = replace(answer, notes=[*answer.notes, *notes])
        if self._config.no_match_below and all(hit.click_probability is not None for hit in answer.hits):
            answer = only_matches(answer, self._config.no_match_below)
        if not answer.hits:
            self._telemetry.empty.inc()
        return answer, searcher

    async def crop(self, image: bytes) -> Box:
        """Where in a photo the product is.

        Raises:
            ImageError: the bytes are no usable picture.
            NotReadyError, SlowAnswerError: the server's own trouble.
        """
        detecting = asyncio.get_running_loop().run_in_executor(
            self._decoders, detect_crop, image, self.searcher, self._config.max_pixels
        )
        try:
            async with asyncio.timeout(self._config.answer_timeout_s):
                return await self._timed("crop", detecting)
        except TimeoutError:
            raise SlowAnswerError(f"no crop within {self._config.answer_timeout_s:g} s") from None

    async def _decode(self, searcher: Searcher, image: bytes) -> NDArray[np.uint8]:
        decoding = asyncio.get_running_loop().run_in_executor(
            self._decoders, searcher.decode, image, self._config.max_pixels
        )
        return await self._timed("decode", decoding)

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        with self._telemetry.stage.labels(stage).time(), self._telemetry.tracing.span(stage):
            return await work

    def _rank(self, jobs: Sequence[_Job]) -> list[Answer | Exception]:
        """Answers in the order of the jobs; those of one bundle, filter and system are ranked together."""
        answers: dict[int, Answer | Exception] = {}
        together: dict[tuple[int, ItemFilter | None, System], list[int]] = {}
        for row, job in enumerate(jobs):
            together.setdefault((id(job.searcher), job.only, job.system), []).append(row)
        for (_, only, system), rows in together.items():
            group = [jobs[row] for row in rows]
            started = time.perf_counter()
            found: Sequence[Answer | Exception]
            try:
                k = max(job.k for job in group)
                found = group[0].searcher.rank(
                    np.stack([job.pixels for job in group]), [job.user for job in group], k, only, system
                )
            except Exception as error:
                found = [error] * len(group)
            self._measure(len(group), time.perf_counter() - started)
            answers |= dict(zip(rows, found, strict=True))
        return [_first(answers[row], job.k) for row, job in enumerate(jobs)]

    def _measure(self, photos: int, seconds: float) -> None:
        self._telemetry.batch.observe(photos)
        self._telemetry.stage.labels("rank").observe(seconds)
        latest = seconds / photos
        before = self._seconds_a_photo or latest
        self._seconds_a_photo = (1 - SMOOTHING) * before + SMOOTHING * latest


def _first(answer: Answer | Exception, k: int) -> Answer | Exception:
    return answer if isinstance(answer, Exception) else replace(answer, hits=answer.hits[:k])
