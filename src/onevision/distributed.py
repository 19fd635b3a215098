"""Several processes that train as one (`torchrun`): who they are, and what they hand to each other.

Every process draws the same batch and works on its share of the rows. What is computed on the whole batch is gathered;
the gather hands back this process's part of the gradient, times the number of processes. So is a loss that each process
has a part of: the mean of all gradients is then the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onevision.errors import OneVisionError
from onevision.processes import local_rank, process_count, process_rank


@dataclass(frozen=True)
class Group:
    """The processes that train together, and the device of this one."""

    rank: int
    size: int
    device: torch.device

    def share(self, bounds: list[int]) -> slice:
        """Rows of this process; `bounds` are `size` + 1 positions."""
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def gather(self, local: Tensor, bounds: list[int]) -> Tensor:
        """Rows of all processes, (bounds[-1], ...), from this one's; with gradient."""
        return local if self.size == 1 else _Gather.apply(local, bounds, self.rank)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one exchange.

        A parameter that no row of this process uses has none here; it counts as zero if another process has one.
        """
        trained = [p for p in parameters if p.requires_grad]
        if self.size == 1 or not trained:
            return
        used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in trained)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), used])
        dist.all_reduce(flat)
        *means, used = flat.split([*(p.numel() for p in trained), len(trained)])
        for parameter, mean, users in zip(trained, means, used.tolist(), strict=True):
            parameter.grad = (mean / self.size).view_as(parameter) if users else None

    def mean(self, value: Tensor) -> float:
        """Mean of a number () over the processes."""
        return self.gather(value.detach()[None], list(range(self.size + 1))).mean().item()

    def require_equal(self, value: int, what: str) -> None:
        """`OneVisionError` unless `value` is the same in all processes."""
        if self.size > 1:
            values = self.gather(torch.tensor([value], device=self.device), list(range(self.size + 1))).tolist()
            if len(set(values)) > 1:
                raise OneVisionError(
                    f"{what} differs between the processes: {values}. They must share one file system."
                )


@contextmanager
def open_group() -> Iterator[Group]:
    """The processes that `torchrun` started, each on a GPU of its own if there are any; without it this one alone."""
    rank, size, local = process_rank(), process_count(), local_rank()
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise OneVisionError(
            f"torchrun started process {local} of a machine with {torch.cuda.device_count()} GPUs: one process a GPU"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if size == 1:
        yield Group(0, 1, device)
        return
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Group(rank, size, device)
    finally:
        dist.destroy_process_group()


def split_rows(count: int, size: int) -> list[int]:
    """Bounds of `size` even shares of `count` rows."""
    return [count * part // size for part in range(size + 1)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, bounds: list[int], rank: int) -> Tensor:
        ctx.part = slice(bounds[rank], bounds[rank + 1])
        ctx.size = len(bounds) - 1
        sizes = [end - start for start, end in pairwise(bounds)]
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.part] * ctx.size, None, None
