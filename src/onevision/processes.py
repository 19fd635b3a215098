"""Which process of a `torchrun` this is; read from the environment, without torch."""

from __future__ import annotations

import os


def process_rank() -> int:
    """Number of this process, 0 alone or first; only process 0 writes."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Processes that work on this stage together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process on its machine: the GPU that it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))
