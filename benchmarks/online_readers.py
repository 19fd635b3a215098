"""Who reads one user's sequences online, and how long each takes: the online part of bench_features.py."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from onevision.features.definitions import USER_KEY
from onevision.features.online import OnlineFeatures
from onevision.features.repository import apply_definitions, materialize, sequence_service
from onevision.features.shared import open_project

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.redis_server import redis_server

__all__ = ["measure", "open_readers", "redis_server", "show"]

Reader = Callable[[str], Any]
WARM_UP = 50
"""Reads that are not counted: they open connections and fill caches."""


def open_readers(
    local: Any, folder: Path, as_of: datetime, redis: str, users: list[str]
) -> tuple[dict[str, Reader], dict[str, float]]:
    """Fill SQLite and Redis with the same sequences.

    Returns:
        readers of a user by name: ours (life times applied), Feast's own call on the same store, and redis-py, which
        fetches the same lists as one JSON text that ours has written; and CPU seconds of materialising, by store.
    """
    os.environ["FEATURE_STORE_REDIS"] = redis
    os.environ["FEATURE_STORE_REGISTRY"] = f"sqlite:///{folder}/production.db"
    shared = open_project("bench")
    apply_definitions(shared, folder)
    readers: dict[str, Reader] = {}
    seconds = {}
    for name, store in (("SQLite", local), ("Redis", shared)):
        started = time.process_time()
        materialize(store, as_of)
        seconds[name] = time.process_time() - started
        online = OnlineFeatures(store, as_of=as_of)
        readers[f"{name}, ours"] = online.sequences
        readers[f"{name}, Feast's get_online_features"] = _raw(store)
    readers["Redis, redis-py GET of one JSON text"] = _json_texts(redis, online, users)
    return readers, seconds


def _raw(store: Any) -> Reader:
    service = sequence_service(store)
    return lambda user: store.get_online_features(features=service, entity_rows=[{USER_KEY: user}]).to_dict()


def _json_texts(redis: str, online: OnlineFeatures, users: list[str]) -> Reader:
    from redis import Redis

    host, port = redis.split(":")
    client = Redis(host=host, port=int(port))
    with client.pipeline(transaction=False) as pipe:
        for user in users:
            pipe.set(f"text:{user}", json.dumps(asdict(online.sequences(user))))
        pipe.execute()
    return lambda user: json.loads(client.get(f"text:{user}"))  # type: ignore[arg-type]


def measure(readers: dict[str, Reader], users: list[str], reads: int) -> dict[str, dict[str, float]]:
    """Milliseconds of single reads and CPU of this process; a store's readers in turn, so that all meet one machine.

    One store after the other: Feast keeps the objects of one registry at hand, and a process serves one.
    """
    asked = np.random.default_rng(9).choice(users, reads + WARM_UP).tolist()
    wall: dict[str, list[float]] = {name: [] for name in readers}
    cpu = dict.fromkeys(readers, 0.0)
    for store in ("SQLite", "Redis"):
        for n, user in enumerate(asked):
            for name in (name for name in readers if name.startswith(store)):
                started, worked = time.perf_counter(), time.process_time()
                readers[name](user)
                if n >= WARM_UP:
                    wall[name].append(1e3 * (time.perf_counter() - started))
                    cpu[name] += 1e3 * (time.process_time() - worked) / reads
    found = {}
    for name, times in wall.items():
        p50, p99 = np.percentile(times, [50, 99])
        found[name] = {"p50_ms": float(p50), "p99_ms": float(p99), "cpu_ms": cpu[name]}
    return found


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the table, each reader beside ours on its store."""
    print(f"{'one user, five views':<42}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}{'ours takes':>12}")
    for name, times in found.items():
        ours = found[f"{name.split(',')[0]}, ours"]["p50_ms"]
        print(f"{name:<42}{times['p50_ms']:9.3f}{times['p99_ms']:9.3f}{times['cpu_ms']:9.3f}", end="")
        print(f"{ours / times['p50_ms']:11.2f}x")
