"""Circle loss (arXiv 2002.10857, equation 6) over all pairs of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def circle_loss(
    embedding: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.4, gamma: float = 80.0
) -> Tensor:
    """Mean over rows of softplus(LSE_n(gamma a_n (s_n - m)) + LSE_p(-gamma a_p (s_p - 1 + m))) / gamma.

    Args:
        embedding: (N, d), unit length.
        positive: (N, N) bool, pairs to pull together (the diagonal must be False).
        negative: (N, N) bool, pairs to push apart.
        margin: m; the optima are O_p = 1 + m and O_n = -m.
        gamma: scale; the loss is divided by it so that it mixes with others.

    The weights a_p = [O_p - s_p]+ and a_n = [s_n - O_n]+ are constants in the backward pass. Computed in float32.
    """
    similarity = embedding.float() @ embedding.float().T
    alpha_p = (1 + margin - similarity.detach()).clamp_min(0)
    alpha_n = (similarity.detach() + margin).clamp_min(0)
    logits_p = (-gamma * alpha_p * (similarity - (1 - margin))).masked_fill(~positive, -torch.inf)
    logits_n = (gamma * alpha_n * (similarity - margin)).masked_fill(~negative, -torch.inf)
    rows = positive.any(1) & negative.any(1)
    if not rows.any():
        return embedding.sum() * 0
    return F.softplus(logits_p[rows].logsumexp(1) + logits_n[rows].logsumexp(1)).mean() / gamma
