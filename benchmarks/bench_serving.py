"""Latency of the real server under open-loop load, with batching and without.

    python benchmarks/bench_serving.py [--bundle DIR --snapshot DIR] [--seconds 12] [--batches 8,1]

For each size of batch, `onevision serve` runs in a process of its own. Saturation is measured with more clients than a
batch holds, each asking again at once. Then requests arrive as a Poisson process at 50 % and at 90 % of it, whatever
the server does, and a latency counts from the moment at which its request should have been sent (no coordinated
omission). The load comes from this process, so on two cores it takes some of what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import numpy as np

from onevision.data.snapshot import Snapshot

SEED = 7
PHOTOS = 256
LOADS = (0.5, 0.9)
PATIENCE = 300.0


@contextmanager
def server(bundle: Path, max_batch: int) -> Iterator[str]:
    """The address of `onevision serve`, warm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"max_batch={max_batch}", "max_pending=512", "answer_timeout_s=60"]
    command = [sys.executable, "-m", "onevision", "serve", "--bundle", str(bundle), "--port", str(port), *settings]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    try:
        while not is_ready(url):
            if process.poll() is not None or time.perf_counter() - started > PATIENCE:
                sys.exit(f"the server did not start: {' '.join(command)}")
            time.sleep(0.2)
        print(f"max_batch={max_batch}: ready after {time.perf_counter() - started:.1f} s")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2).status == 200)
    except OSError:
        return False


def make_client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False)


async def ask(client: httpx.AsyncClient, photo: bytes) -> None:
    answer = await client.post("/search", files={"image": photo})
    if answer.status_code != 200:
        sys.exit(f"the server answered {answer.status_code}: {answer.text}")


async def saturation(url: str, photos: list[bytes], clients: int, seconds: float) -> float:
    """Requests a second of clients that ask again as soon as they are answered."""
    done = 0
    async with make_client(url) as client:
        until = time.perf_counter() + seconds

        async def keep_asking(number: int) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await ask(client, photos[(done + number) % len(photos)])
                done += 1

        started = time.perf_counter()
        await asyncio.gather(*(keep_asking(number) for number in range(clients)))
        return done / (time.perf_counter() - started)


async def open_loop(url: str, photos: list[bytes], rate: float, seconds: float) -> np.ndarray:
    """Milliseconds of every request of a Poisson process of `rate` requests a second."""
    rng = np.random.default_rng(SEED)
    arrivals = np.cumsum(rng.exponential(1 / rate, max(20, int(rate * seconds))))
    latencies = np.empty(len(arrivals))
    async with make_client(url) as client:
        begin = time.perf_counter()

        async def one(number: int) -> None:
            await ask(client, photos[number % len(photos)])
            latencies[number] = (time.perf_counter() - begin - arrivals[number]) * 1e3

        tasks = []
        for number, arrival in enumerate(arrivals):
            await asyncio.sleep(max(0.0, begin + arrival - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    return latencies


async def measure(url: str, photos: list[bytes], max_batch: int, seconds: float) -> float:
    """Print a row for each load; the saturation."""
    await saturation(url, photos, 2 * max_batch, 2)
    top = await saturation(url, photos, max(8, 3 * max_batch), seconds)
    for load in LOADS:
        p50, p95, p99 = np.percentile(await open_loop(url, photos, load * top, seconds), [50, 95, 99])
        print(f"{max_batch:>9}{top:>12.1f}{load:>7.0%}{load * top:>9.1f}{p50:>9.1f}{p95:>9.1f}{p99:>9.1f}")
    return top


def read_photos(snapshot: Path) -> list[bytes]:
    """Pictures that shoppers took, in an order that does not depend on the run."""
    shop = Snapshot.open(snapshot, verify=False)
    rows = shop.table("images").select(["image_id", "view"]).to_pylist()
    ids = sorted(row["image_id"] for row in rows if row["view"] == "user_photo")
    chosen = np.random.default_rng(SEED).permutation(len(ids))[:PHOTOS]
    return [shop.images.read(ids[row]) for row in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("runs/latest/bundle"))
    parser.add_argument("--snapshot", type=Path, default=Path("runs/latest/snapshot"))
    parser.add_argument("--seconds", type=float, default=12.0, help="of each of the three measurements a batch size")
    parser.add_argument("--batches", default="8,1", help="sizes of batches; 1 is no batching, the peer")
    asked = parser.parse_args()
    if not asked.bundle.is_dir():
        sys.exit(f"{asked.bundle}: no such bundle; `make smoke` makes one")
    photos = read_photos(asked.snapshot)
    tops = {}
    for max_batch in map(int, asked.batches.split(",")):
        with server(asked.bundle, max_batch) as url:
            print(f"{'max_batch':>9}{'saturation':>12}{'load':>7}{'req/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
            tops[max_batch] = asyncio.run(measure(url, photos, max_batch, asked.seconds))
    if 1 in tops:
        best = max(tops, key=lambda size: tops[size])
        print(f"batches of {best} take {tops[best] / tops[1]:.2f}x the requests of none")


if __name__ == "__main__":
    main()
