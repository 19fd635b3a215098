"""Load for a server: closed loop to find its saturation, open loop for its latency, and what came back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2 as httpx
import numpy as np

SEED = 7
PATIENCE = 300.0
QUANTILES = (50, 95, 99)


@dataclass
class Tally:
    """What a load met.

    Attributes:
        milliseconds: of every answer, from the moment at which its request should have been sent.
        answers: by status code; 0 counts connections that broke.
        unexplained: 429s without a `Retry-After`.
        bundles: which bundles answered.
    """

    milliseconds: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    unexplained: int = 0
    bundles: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Requests that got neither an answer nor a 429."""
        return sum(count for status, count in self.answers.items() if status not in (200, 429))

    def quantiles(self) -> dict[str, float]:
        """Milliseconds at p50, p95 and p99, of searches that were answered."""
        return {f"p{q}": float(np.percentile(self.milliseconds, q)) for q in QUANTILES}


def make_client(url: str) -> httpx.AsyncClient:
    """A client without a limit of connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False)


async def ask(client: httpx.AsyncClient, photo: bytes, system: str, tally: Tally) -> bool:
    """Send one search, count how it was answered; whether it was."""
    try:
        answer = await client.post("/search", files={"image": photo}, data={"system": system})
    except httpx.HTTPError:
        tally.answers[0] += 1
        return False
    tally.answers[answer.status_code] += 1
    if answer.status_code == 200:
        tally.bundles[answer.json()["bundle"]] += 1
    if answer.status_code == 429 and "retry-after" not in answer.headers:
        tally.unexplained += 1
    return answer.status_code == 200


async def saturation(url: str, photos: list[bytes], clients: int, seconds: float, system: str = "generator") -> float:
    """Answers a second to clients that ask again as soon as they are answered."""
    tally = Tally()
    async with make_client(url) as client:
        started = time.perf_counter()

        async def keep_asking(number: int) -> None:
            while time.perf_counter() < started + seconds:
                photo = photos[(sum(tally.answers.values()) + number) % len(photos)]
                await ask(client, photo, system, tally)

        await asyncio.gather(*(keep_asking(number) for number in range(clients)))
        return tally.answers[200] / (time.perf_counter() - started)


async def open_loop(url: str, photos: list[bytes], rate: float, seconds: float, system: str = "generator") -> Tally:
    """Requests of a Poisson process of `rate` a second, sent whatever the server does (no coordinated omission)."""
    rng = np.random.default_rng(SEED)
    arrivals = np.cumsum(rng.exponential(1 / rate, max(20, int(rate * seconds))))
    tally = Tally()
    async with make_client(url) as client:
        begin = time.perf_counter()

        async def one(number: int) -> None:
            if await ask(client, photos[number % len(photos)], system, tally):
                tally.milliseconds.append((time.perf_counter() - begin - arrivals[number]) * 1e3)

        tasks: set[asyncio.Task[None]] = set()
        for number, arrival in enumerate(arrivals):
            await asyncio.sleep(max(0.0, begin + arrival - time.perf_counter()))
            tasks.add(asyncio.create_task(one(number)))
            tasks = {task for task in tasks if not task.done()}
        await asyncio.gather(*tasks)
    return tally
