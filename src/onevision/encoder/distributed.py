"""Training on several processes (`torchrun`) that gives what one process gives on the same batch.

Every process draws the same batch and runs the tower on its share of the products; the pooled vectors are gathered,
and head and losses are computed on the whole batch everywhere, so that all negatives count. The gather hands back this
process's part of the gradient, times the number of processes; the mean of all gradients is then the gradient of the
whole batch, for tower and head alike.
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
        """Replace every gradient by its mean over the processes, in one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

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


def split_products(product: Tensor, size: int) -> list[int]:
    """Bounds of `size` shares of a batch, even but for whole products; equal numbers (N,) lie side by side."""
    first = torch.cat([torch.ones(1, dtype=torch.bool), product[1:] != product[:-1]]).nonzero().flatten()
    starts = torch.cat([first, torch.tensor([len(product)])])
    even = torch.tensor(split_rows(len(product), size))
    bounds: list[int] = starts[torch.searchsorted(starts, even)].tolist()
    return bounds


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, on any device (`nn.SyncBatchNorm` is for GPUs alone)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, h, w); each process may hold another N."""
        if not self.training:
            return super().forward(x)
        axes = (0, 2, 3)
        count = torch.tensor(float(x.numel() // x.shape[1]), device=x.device)
        dist.all_reduce(count)
        wide = x.float()
        mean = _Sum.apply(wide.sum(axes)) / count
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(module: nn.Module) -> None:
    """Let every batch normalisation in a module see the batch of all processes; weights and names stay."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SharedBatchNorm2d


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


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ARG004
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
