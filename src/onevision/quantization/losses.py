"""The losses of VRQ (method section 4): views of one product meet on shallow codes, products part on deep ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` in the forward pass, the gradient of `z` in the backward pass."""
    return z + (quantised - z).detach()


def commitment(rests: list[Tensor], quantised: list[Tensor]) -> Tensor:
    """Sum over levels of the mean of ||r_l - sg(q_l)||^2; both lists hold (N, d)."""
    return torch.stack([(r - q.detach()).square().sum(1).mean() for r, q in zip(rests, quantised, strict=True)]).sum()


def view_contrast(u: Tensor, v: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE on prefixes of two views (N, d), plus their mean squared distance.

    `same` (N, N) bool marks pairs of rows that show one product: they are taken out of the negatives.
    """
    logits = F.normalize(u, dim=1) @ F.normalize(v, dim=1).T / temperature
    other = same & ~torch.eye(len(u), dtype=torch.bool)
    logits = logits.masked_fill(other, -torch.inf)
    target = torch.arange(len(u))
    contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return contrast + (u - v).square().sum(1).mean()


def code_agreement(distances_u: Tensor, distances_v: Tensor, temperature: float) -> Tensor:
    """Mean Jensen-Shannon divergence of softmax(-d / T) over the codes of a level; distances are (N, K)."""
    log_p = (-distances_u / temperature).log_softmax(1)
    log_q = (-distances_v / temperature).log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    return 0.5 * ((log_p.exp() * (log_p - log_m)).sum(1) + (log_q.exp() * (log_q - log_m)).sum(1)).mean()


def product_margin(z_u: Tensor, z_v: Tensor, z_n: Tensor, margin: float) -> Tensor:
    """Mean of max(0, m + ||z_u - z_v||^2 - ||z_u - z_n||^2); z_n is another product of the same category."""
    return (margin + (z_u - z_v).square().sum(1) - (z_u - z_n).square().sum(1)).clamp_min(0).mean()


def balanced_codes(distances: Tensor, *, iterations: int = 5, temperature: float = 0.05) -> Tensor:
    """Codes (N,) whose use is spread evenly: Sinkhorn-Knopp on softmax(-d / T), then the largest entry.

    For the last residual level alone: balancing every level destroys the hierarchy (CUR 48.95 % to 1.64 % in
    OneSearch).
    """
    log_plan = -distances.detach() / temperature
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
    return log_plan.argmax(1)
