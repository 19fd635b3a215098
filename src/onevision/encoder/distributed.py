"""Training of the encoder on several processes (`onevision.distributed`) that gives what one gives on the same batch.

Every process runs the tower on its share of the products; the pooled vectors are gathered, and head and losses are
computed on the whole batch everywhere, so that all negatives count.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onevision.distributed import split_rows


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
