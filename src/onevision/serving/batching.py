"""Dynamic batching: requests that arrive together are ranked in one pass (as in Clipper, NSDI 2017, section 4.3).

One thread runs the batches; while it works, the next batch gathers, so that batches grow with the load by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class _Ticket(Generic[Job, Result]):
    job: Job
    future: asyncio.Future[Result]
    arrived: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Job, Result]):
    """Gathers jobs and runs them in batches, in the order of their arrival.

    Args:
        run: results of a batch, in its order; an exception in a job's place is raised to that job's caller alone.
        max_batch: jobs of a batch at most.
        max_wait: seconds that the oldest job of an unfilled batch waits for company at most.
        observe: told the seconds that each job waited.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        *,
        max_batch: int,
        max_wait: float,
        observe: Callable[[float], None],
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._observe = observe
        self._waiting: deque[_Ticket[Job, Result]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rank")
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run batches, in the running event loop."""
        self._loop_task = asyncio.create_task(self._serve())

    async def submit(self, job: Job) -> Result:
        """Wait for the job's result; a caller that is cancelled leaves the queue."""
        ticket: _Ticket[Job, Result] = _Ticket(job, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._arrived.set()
        return await ticket.future

    async def stop(self) -> None:
        """End after the batch that is running; jobs that still wait are cancelled."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for ticket in self._waiting:
            ticket.future.cancel()
        self._thread.shutdown()

    async def _serve(self) -> None:
        while True:
            await self._answer(await self._gather())  # no name here for a batch, which would keep it while none comes

    async def _answer(self, batch: list[_Ticket[Job, Result]]) -> None:
        if not batch:
            return
        for ticket in batch:
            self._observe(time.perf_counter() - ticket.arrived)
        jobs = [ticket.job for ticket in batch]
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, jobs)
        except Exception as error:
            results = [error] * len(batch)
        for ticket, result in zip(batch, results, strict=True):
            if ticket.future.done():
                continue
            if isinstance(result, Exception):
                ticket.future.set_exception(result)
            else:
                ticket.future.set_result(result)

    async def _gather(self) -> list[_Ticket[Job, Result]]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        until = self._waiting[0].arrived + self._max_wait
        while len(self._waiting) < self._max_batch and (left := until - time.perf_counter()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
        batch: list[_Ticket[Job, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            ticket = self._waiting.popleft()
            if not ticket.future.done():
                batch.append(ticket)
        return batch
