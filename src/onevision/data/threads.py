"""Work outside the interpreter's lock (file reads, Pillow's decoders), in threads and in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 8
_BLOCK = 64


def map_in_threads(function: Callable[[T], R], items: Sequence[T], label: str, unit: str = "image") -> Iterator[R]:
    """Results of `function` in the order of `items`, with a progress bar; the first error ends the work."""

    def block(start: int) -> list[R]:
        return [function(item) for item in items[start : start + _BLOCK]]

    with (
        ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool,
        tqdm(total=len(items), desc=label, unit=unit, disable=None) as bar,
    ):
        for results in pool.map(block, range(0, len(items), _BLOCK)):
            bar.update(len(results))
            yield from results
