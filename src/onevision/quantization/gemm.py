"""Float32 matrix products by oneDNN where that is faster and still float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

TOLERANCE = 1e-5
"""Largest error of a product against float64, in units of the rows' lengths: float32 is at 1e-7, bfloat16 at 1e-3."""


@contextmanager
def fast_matmul() -> Iterator[None]:
    """Send the float32 products of this block to oneDNN.

    PyTorch does so only where bfloat16 would be allowed; a CPU without bfloat16 matrix units computes in float32 all
    the same, about twice as fast as MKL on AMD. Where the product really loses precision nothing is changed.
    The setting is the process's: two threads that enter at once leave it as neither found it.
    """
    with _precision("bf16") if _is_still_float32() else nullcontext():
        yield


def plain_matmul() -> AbstractContextManager[None]:
    """Take a block out of `fast_matmul`: fused attention is many small products, each of which oneDNN prepares anew."""
    return _precision("ieee")


@contextmanager
def _precision(name: str) -> Iterator[None]:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = name
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _is_still_float32() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(256, 256, generator=generator), dim=1) for _ in range(2))
    with _precision("bf16"):
        error = (a @ b.T).double() - a.double() @ b.double().T
    return bool(error.abs().max() < TOLERANCE)
