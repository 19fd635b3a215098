"""The losses that train VRQ's keys; all are of one level.

The first three are always on, and read squared distances (N, K) to the level's keys. The others are options; they read
*quantised prefixes*, what the codes up to this level say of a view, with soft codes at this level so that keys have a
gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i - y_j||^2 of rows (N, r) and (K, r): (N, K)."""
    return x.square().sum(1, keepdim=True) - 2 * x @ y.T + y.square().sum(1)


def soft_codes(distances: Tensor, temperature: float) -> Tensor:
    """Log of softmax(-d / T) over the codes, (N, K)."""
    return (-distances / temperature).log_softmax(1)


def code_agreement(log_u: Tensor, log_v: Tensor, code: Tensor) -> Tensor:
    """Mean cross-entropy of both views' soft codes (N, K) with the code (N,) of their mean.

    The mean of two views lies nearer to its product than either; that its code teaches both is the swapped prediction
    of SwAV (arXiv 2006.09882) with one teacher for two students.
    """
    return (F.nll_loss(log_u, code) + F.nll_loss(log_v, code)) / 2


def usage(log_codes: Tensor, floor: float) -> Tensor:
    """How far the entropy of the mean of soft codes (N, K) is below that of `floor` * K codes used alike; 0 above.

    Agreement alone is easiest with everything on one code. A floor, and not the most even use: families of products are
    not of one size.
    """
    share = log_codes.exp().mean(0)
    entropy = -(share * share.clamp_min(1e-9).log()).sum()
    return (math.log(floor * len(share)) - entropy).clamp_min(0)


def commitment(distances: Tensor, code: Tensor) -> Tensor:
    """Mean squared distance to the key that is taken, (N, K) and (N,)."""
    return distances.gather(1, code[:, None]).mean()


def soft_prefix(before: Tensor, log_codes: Tensor, keys: Tensor) -> Tensor:
    """Quantised prefixes (N, r): what earlier codes say (N, r), plus the mean of keys (K, r) by soft codes (N, K)."""
    return before + log_codes.exp() @ keys


def view_contrast(apart: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748) of a pair's prefixes among those of other products in the batch, from both sides.

    The likeness is the negative squared distance, so that a pair's own distance is pulled down as it stands.

    Args:
        apart: (N, N) squared distances of the first views' prefixes (rows) to the second views'; pairs on the diagonal.
        other: (N, N), whether row and column show two products; the rest is no negative.
    """
    kept = other | torch.eye(len(other), dtype=torch.bool)
    logits = (-apart / temperature).masked_fill(~kept, -torch.inf)
    pair = torch.arange(len(apart))
    return (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2


def margin_shortfall(apart: Tensor, rival: Tensor, margin: float) -> Tensor:
    """Mean of max(0, m + ||z_u - z_v||^2 - ||z_u - z_n||^2) over all rivals n of the batch; 0 where there are none.

    Args:
        apart: (N, N) as in `view_contrast`.
        rival: (N, N), whether the column is another product that the row's shall keep its distance from.
    """
    shortfall = (margin + apart.diagonal()[:, None] - apart).clamp_min(0)
    return shortfall.masked_fill(~rival, 0).sum() / rival.sum().clamp_min(1)


def category_error(prefixes: Tensor, category: Tensor, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the head's guess at the category (N,) of prefixes (N, r)."""
    return F.cross_entropy(head(prefixes), category)


def nearest_mean_head(x: Tensor, category: Tensor, unit: float) -> nn.Linear:
    """Linear head whose logits are -||x - mu_c||^2 / unit, up to what all categories share, for means of x (N, r)."""
    count = torch.bincount(category).clamp_min(1)
    mean = torch.zeros(len(count), x.shape[1]).index_add_(0, category, x) / count[:, None]
    head = nn.Linear(x.shape[1], len(count))
    with torch.no_grad():
        head.weight.copy_(2 * mean / unit)
        head.bias.copy_(-mean.square().sum(1) / unit)
    return head
