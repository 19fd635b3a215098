"""Batches keep order and limits, a mistake stays with its job, and a caller who leaves takes no place."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from onevision.serving.batching import Batcher


class Doubler:
    """Doubles numbers, remembers its batches, refuses negative numbers, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.open.wait(10)
        self.batches.append(list(jobs))
        return [ValueError(job) if job < 0 else 2 * job for job in jobs]


def run(work: Callable[[Batcher[int, int]], Awaitable[Any]], function: Any, **settings: Any) -> Any:
    async def scenario() -> Any:
        batcher: Batcher[int, int] = Batcher(
            function, **({"max_batch": 4, "max_wait": 0.0, "observe": lambda seconds: None} | settings)
        )
        batcher.start()
        try:
            return await work(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(scenario())


async def held(batcher: Batcher[int, int], doubler: Doubler, jobs: Sequence[int]) -> list[Any]:
    """Submit a first job that is held up, then all others, then let go."""
    doubler.open.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(batcher.submit(job)) for job in jobs]
    await asyncio.sleep(0.05)
    doubler.open.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def test_jobs_that_come_while_a_batch_runs_are_run_together_in_their_order() -> None:
    doubler = Doubler()
    results = run(lambda batcher: held(batcher, doubler, range(1, 8)), doubler)
    assert results == [2 * n for n in range(8)]
    assert doubler.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_batch_of_one_turns_batching_off() -> None:
    doubler = Doubler()
    run(lambda batcher: held(batcher, doubler, range(1, 4)), doubler, max_batch=1)
    assert doubler.batches == [[0], [1], [2], [3]]


def test_an_unfilled_batch_waits_for_company() -> None:
    async def two(batcher: Batcher[int, int]) -> list[int]:
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        return [await batcher.submit(2), await first]

    doubler = Doubler()
    assert run(two, doubler, max_wait=5.0, max_batch=2) == [4, 2]
    assert doubler.batches == [[1, 2]]


def test_the_wait_ends_although_nobody_comes() -> None:
    assert run(lambda batcher: asyncio.wait_for(batcher.submit(3), 5), Doubler(), max_wait=0.05) == 6


def test_a_refused_job_fails_alone() -> None:
    doubler = Doubler()
    results = run(lambda batcher: held(batcher, doubler, [1, -2, 3]), doubler)
    assert results[:2] == [0, 2]
    assert isinstance(results[2], ValueError)
    assert results[3] == 6


def test_a_batch_that_breaks_fails_its_jobs_and_no_later_one() -> None:
    calls = []

    def breaks_once(jobs: Sequence[int]) -> list[int | Exception]:
        calls.append(list(jobs))
        if len(calls) == 1:
            raise RuntimeError("broken")
        return list(jobs)

    async def twice(batcher: Batcher[int, int]) -> int:
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.submit(1)
        return await batcher.submit(2)

    assert run(twice, breaks_once) == 2


class Photo:
    """A job that can be watched."""


def test_an_answered_job_is_let_go_although_no_other_comes() -> None:
    async def once(batcher: Batcher[Any, Any]) -> list[Any]:
        photos = [Photo(), Photo()]
        watched = [weakref.ref(photo) for photo in photos]
        await asyncio.gather(*(batcher.submit(photo) for photo in photos))
        photos.clear()
        await asyncio.sleep(0.05)
        return [photo() for photo in watched]

    gc.disable()
    try:
        assert run(once, lambda jobs: [1] * len(jobs)) == [None, None]
    finally:
        gc.enable()


def test_a_caller_who_leaves_is_not_ranked() -> None:
    doubler = Doubler()

    async def leave(batcher: Batcher[int, int]) -> int:
        doubler.open.clear()
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        gone, stays = (asyncio.create_task(batcher.submit(n)) for n in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        doubler.open.set()
        await first
        return await stays

    assert run(leave, doubler) == 6
    assert doubler.batches == [[1], [3]]
