"""A stage keeps the memory that it frees."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

FAULTS = textwrap.dedent("""
    import resource, sys
    from onevision.allocator import keep_freed_memory
    if sys.argv[1] == "kept":
        keep_freed_memory()
    import torch
    torch.set_num_threads(1)

    def step():
        return torch.ones(16, 1024, 1024).add_(1).sum().item()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert all(step() == 2.0 * 2**24 for _ in range(10))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")


def page_faults(mode: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the C library of Linux")
def test_memory_that_is_freed_is_there_when_it_is_asked_for_again() -> None:
    assert page_faults("kept") * 10 < page_faults("freed")
