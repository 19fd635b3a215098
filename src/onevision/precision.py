"""Precision of training and search: bfloat16 where a device has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")
Precision = Literal["auto", "fp32", "bf16"]


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` asks the CPU or the GPU whether it has it natively."""
    import torch

    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return precision == "bf16"


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Take a function out of autocast: distances subtract squares that are nearly equal."""
    import torch

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> T:
        if not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"):
            return function(*arguments, **keywords)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*arguments, **keywords)

    return call
