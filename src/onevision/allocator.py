"""What a stage does with memory that is freed: it keeps it.

Tensors of a training step are of the sizes of the step before. By default glibc hands large blocks back to the kernel,
which clears every page of them when they are asked for again: thousands of page faults a step, 4 % of the encoder's
CPU time on one machine and 15 % on another (`benchmarks/bench_allocator.py`).
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of `mallopt` (malloc.h)."""
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, and torch ask for large pages; to be called before torch is used.

    Where the C library is not glibc, nothing happens. The process ends with its stage: a server does not call it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
