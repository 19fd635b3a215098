"""The real server under open-loop load: batches or none, generator or cascade, reloads, and more than it can take.

    python benchmarks/bench_serving.py [--bundle DIR --snapshot DIR --evaluation DIR] [--seconds 12] [--out FILE]
    python benchmarks/bench_serving.py --minutes 10 --reloads 20 --other DIR   # then also a long run

Each server is a process of its own; the cascade is the evaluation's, asked by `system=cascade`. Saturation is measured
with more clients than a batch holds, each asking again at once. Then requests arrive as a Poisson process at 50 % and
at 90 % of it, and a latency counts from the moment at which its request should have been sent. Then three times as many
as it can take arrive, at the limits that it has by default: it must turn requests away with 429, answer the others, and
be itself again afterwards. In the long run the champion of a bundle store changes between two bundles under half of the
saturation; nothing may fail, and memory must stay. The load comes from Locust on the same machine: on two cores it
takes some of what is measured; the CPU milliseconds of a search, at saturation, are the server's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from serving_load import PATIENCE, SEED, Tally, open_loop, saturation
from serving_memory import MemoryCurve

from onevision.artifacts import open_artifact
from onevision.data.snapshot import Snapshot
from onevision.data.store import read_pointer, swap_pointer

PHOTOS = 256
LOADS = (0.5, 0.9)
OVERLOAD = 3.0
ANSWERED = 'onevision_requests_total{code="200",route="/search"}'
NO_SHEDDING = ["max_pending=512", "answer_timeout_s=60"]


@dataclass(frozen=True)
class Running:
    """A server: its address, its process, and the seconds from its start to its readiness."""

    url: str
    process: psutil.Process
    ready_s: float

    def metric(self, name: str) -> float:
        """The value of a series at /metrics; 0 if there is none."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def spent(self) -> tuple[float, float]:
        """CPU seconds of the server so far, and searches that it has answered."""
        times = self.process.cpu_times()
        return times.user + times.system, self.metric(ANSWERED)


@contextmanager
def server(source: list[str], settings: list[str]) -> Iterator[Running]:
    """`onevision serve`, warm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "onevision", "serve", *source, "--port", str(port), *settings]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    try:
        while not is_ready(url):
            if process.poll() is not None or time.perf_counter() - started > PATIENCE:
                sys.exit(f"the server did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield Running(url, psutil.Process(process.pid), time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2).status == 200)
    except OSError:
        return False


def measure(source: list[str], photos: Path, system: str, max_batch: int, seconds: float) -> dict[str, Any]:
    """Saturation, and latency at shares of it; prints a row for each."""
    settings = [f"max_batch={max_batch}", *NO_SHEDDING]
    with server(source, settings) as running:
        saturation(running.url, photos, 2 * max_batch, 2, system)
        before = running.spent()
        top = saturation(running.url, photos, max(8, 3 * max_batch), seconds, system)
        cpu, answers = (after - then for after, then in zip(running.spent(), before, strict=True))
        found: dict[str, Any] = {"system": system, "max_batch": max_batch, "saturation": top}
        found |= {"cpu_ms": 1e3 * cpu / answers, "ready_s": running.ready_s}
        head = f"{system:<10}{max_batch:>6}{top:>12.1f}{found['cpu_ms']:>8.1f}"
        for load in LOADS:
            tally = open_loop(running.url, photos, load * top, seconds, system)
            times = tally.quantiles()
            found[f"at {load:.0%}"] = times | {"requests": sum(tally.answers.values()), "errors": tally.errors}
            row = "".join(f"{times[name]:>9.1f}" for name in times)
            print(f"{head}{load:>7.0%}{load * top:>9.1f}{row}{tally.errors:>8}")
    return found


def overload(bundle: Path, photos: Path, top: float, seconds: float) -> dict[str, Any]:
    """Three times the saturation at the default limits, and half of it before and after."""
    with server(["--bundle", str(bundle)], []) as running:

        def load(share: float) -> Tally:
            return open_loop(running.url, photos, share * top, seconds)

        before, during, after = load(0.5), load(OVERLOAD), load(0.5)
    turned_away = during.answers[429] / sum(during.answers.values())
    print(
        f"at {OVERLOAD:g} times the saturation {turned_away:.0%} are answered 429, {during.errors} fail, others take "
        f"{during.quantiles()['p99']:.0f} ms at p99; p95 at half: {before.quantiles()['p95']:.0f} ms before, "
        f"{after.quantiles()['p95']:.0f} ms after"
    )
    return {
        "answers": {str(status): count for status, count in sorted(during.answers.items())},
        "without_retry_after": during.unexplained,
        "during": during.quantiles(),
        "before": before.quantiles(),
        "after": after.quantiles() | {"answers": {str(status): count for status, count in after.answers.items()}},
    }


def long_run(
    bundles: list[Path], photos: Path, rate: float, minutes: float, reloads: int, store: Path
) -> dict[str, Any]:
    """`rate` requests a second while the champion changes `reloads` times, and the server's memory all the while."""
    identities = [open_artifact(bundle).identity for bundle in bundles]
    for bundle, identity in zip(bundles, identities, strict=True):
        shutil.copytree(bundle, store / "bundles" / identity)

    def point(number: int) -> None:
        swap_pointer(store, {"bundle": identities[number % len(identities)]}, read_pointer(store)[1])

    point(0)
    memory = MemoryCurve()
    with server(["--store", str(store)], ["poll_s=1", *NO_SHEDDING]) as running:
        began = time.perf_counter()
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(open_loop, running.url, photos, rate, 60 * minutes)
            while not load.done():
                now = time.perf_counter() - began
                memory.add(now, running.process.memory_info().rss / 1e6)
                if len(memory.changes) < min(reloads, now // (60 * minutes / (reloads + 1))):
                    memory.changes.append(now)
                    point(len(memory.changes))
                time.sleep(1)
            tally = load.result()
        loaded = running.metric('onevision_reloads_total{outcome="loaded"}') - 1
        failed = running.metric('onevision_reloads_total{outcome="failed"}')
    curve = memory.summary()
    requests = sum(tally.answers.values())
    print(
        f"{minutes:g} minutes at {rate:.1f} requests a second, {loaded:.0f} of {reloads} reloads: {requests} requests, "
        f"{requests - tally.answers[200]} not answered, p99 {tally.quantiles()['p99']:.0f} ms; memory "
        f"{curve['start_mb']:.0f} MB at the start, {curve['warm_mb']:.0f} warm, {curve['end_mb']:.0f} at the end, "
        f"{curve['slope_mb_a_minute']:+.2f} a minute"
    )
    return {
        "minutes": minutes,
        "requests_a_second": rate,
        "requests": requests,
        "not_answered": requests - tally.answers[200],
        "reloads": loaded,
        "reloads_failed": failed,
        "bundles": dict(tally.bundles),
        **tally.quantiles(),
        "memory": curve,
    }


def save_photos(snapshot: Path, folder: Path) -> Path:
    """Pictures that shoppers took as files of `folder`, in an order that does not depend on the run."""
    shop = Snapshot.open(snapshot, verify=False)
    rows = shop.table("images").select(["image_id", "view"]).to_pylist()
    ids = sorted(row["image_id"] for row in rows if row["view"] == "user_photo")
    chosen = np.random.default_rng(SEED).permutation(len(ids))[:PHOTOS]
    folder.mkdir()
    for number, row in enumerate(chosen):
        (folder / f"{number:03d}").write_bytes(shop.images.read(ids[row]))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("runs/latest/bundle"))
    parser.add_argument("--snapshot", type=Path, default=Path("runs/latest/snapshot"))
    parser.add_argument("--evaluation", type=Path, default=Path("runs/latest/evaluation"), help="with the cascade")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--batches", default="8,1", help="sizes of batches; 1 is no batching, the peer")
    parser.add_argument("--minutes", type=float, default=0.0, help="of the long run; 0 leaves it out")
    parser.add_argument("--reloads", type=int, default=20, help="changes of the champion in the long run")
    parser.add_argument("--other", type=Path, help="another bundle of the shop, for the long run")
    parser.add_argument("--out", type=Path, help="file for the figures")
    asked = parser.parse_args()
    for needed in (asked.bundle, asked.evaluation / "cascade"):
        if not needed.is_dir():
            sys.exit(f"{needed}: no such folder; `make smoke` makes bundle and evaluation")
    if asked.minutes and asked.other is None:
        sys.exit("--minutes: name another bundle with --other, so that the champion can change")
    with tempfile.TemporaryDirectory(prefix="onevision-serving-") as folder:
        found = run(asked, Path(folder))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements; `folder` is theirs."""
    photos = save_photos(asked.snapshot, folder / "photos")
    load_before = os.getloadavg()[0]
    columns = "".join(f"{name:>9}" for name in ("req/s", "p50 ms", "p95 ms", "p99 ms"))
    print(f"{'system':<10}{'batch':>6}{'saturation':>12}{'CPU ms':>8}{'load':>7}{columns}{'errors':>8}")
    sources = {"generator": ["--bundle", str(asked.bundle)]}
    sources["cascade"] = [*sources["generator"], "--cascade", str(asked.evaluation)]
    rows = [
        measure(source, photos, system, max_batch, asked.seconds)
        for system, source in sources.items()
        for max_batch in map(int, asked.batches.split(","))
    ]
    generator = {row["max_batch"]: row["saturation"] for row in rows if row["system"] == "generator"}
    best = max(generator, key=lambda size: generator[size])
    found: dict[str, Any] = {"load_average_before": load_before, "cores": os.cpu_count(), "rows": rows}
    if 1 in generator:
        print(f"batches of {best} take {generator[best] / generator[1]:.2f}x the requests of none")
    found["overload"] = overload(asked.bundle, photos, generator[best], asked.seconds)
    if asked.minutes:
        bundles, rate = [asked.bundle, asked.other], LOADS[0] * generator[best]
        found["long_run"] = long_run(bundles, photos, rate, asked.minutes, asked.reloads, folder / "store")
    return found


if __name__ == "__main__":
    main()
