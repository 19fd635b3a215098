"""InfoNCE over a batch with several positives a row (arXiv 1807.03748; multi-positive form of arXiv 2004.11362)."""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce(embedding: Tensor, affinity: Tensor, scale: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy between softmax(scale * cosine) and the normalised affinity.

    Args:
        embedding: (N, d), unit length.
        affinity: (N, N) >= 0; a row's target is its affinity, normalised. The diagonal is ignored. A *negative*
            entry takes the pair out altogether: neither positive nor negative (same product, doubtful pair).
        scale: inverse temperature.

    Rows without a positive do not count. Symmetric when `affinity` is.
    """
    affinity = affinity.float()
    excluded = affinity < 0
    excluded.fill_diagonal_(True)
    logits = (scale * embedding @ embedding.T).float().masked_fill(excluded, -torch.inf)
    target = affinity.clamp_min(0).masked_fill(excluded, 0)
    total = target.sum(1)
    rows = total > 0
    log_probability = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(excluded, 0)
    loss = -(target * log_probability).sum(1)[rows] / total[rows]
    return loss.mean() if rows.any() else embedding.sum() * 0
