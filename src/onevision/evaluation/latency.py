"""How long one query takes: batch size 1, warm, on the threads that the process has."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_WARM_UP = 3


def latencies_ms(answer: Callable[[int], object], queries: int) -> dict[str, float]:
    """p50, p95 and p99 of `answer(row)` in milliseconds, one call a row, after a few that are not counted."""
    for row in range(min(_WARM_UP, queries)):
        answer(row)
    taken = []
    for row in range(queries):
        began = time.perf_counter()
        answer(row)
        taken.append(1000 * (time.perf_counter() - began))
    return {f"latency_ms_p{q}": float(np.percentile(taken, q)) for q in (50, 95, 99)}
