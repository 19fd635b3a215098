"""Muon: steps of a momentum whose matrices are made orthogonal, so that no direction of a layer is left behind
(Jordan et al. 2024; scaled as in arXiv 2502.16982). What is no matrix is AdamW's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1, fastest for small ones (Jordan et al.)."""
ITERATIONS = 5
MOMENTUM = 0.95
LIKE_ADAMW = 0.2
"""Root mean square of a step that AdamW would take at learning rate 1, so that both have the same rate."""
ORTHOGONAL = "orthogonal"


class Muon(torch.optim.AdamW):
    """Groups that say `orthogonal: True` hold weights (out, ...) of layers, seen as matrices (out, rest); the others
    are AdamW's. Weight decay is decoupled in both."""

    def __init__(self, groups: list[dict[str, Any]], *, weight_decay: float) -> None:
        super().__init__(groups, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; gradients of matrices are used up by it."""
        for group in self.param_groups:
            if not group.get(ORTHOGONAL):
                continue
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:  # AdamW, whose checkpoints these are, wants every state to count its steps
                    state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
                state["step"] += 1
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                step = orthogonal(weight.grad.lerp(momentum, MOMENTUM).flatten(1))
                rate = group["lr"] * LIKE_ADAMW * max(step.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step.view_as(weight), alpha=rate)
                weight.grad = None
        return super().step(closure)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with its singular values brought near 1, by Newton-Schulz iterations.

    x <- (a + b x x' + c (x x')^2) x is worked out on the smaller Gram matrix alone, and multiplied with x once.
    """
    a, b, c = COEFFICIENTS
    x = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x if len(matrix) <= matrix.shape[1] else x.T
