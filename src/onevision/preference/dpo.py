"""Listwise direct preference optimisation (DPO, arXiv 2305.18290; listwise form with reward gaps as in OneSearch).

    rho_y = log pi(y|x) - log pi_ref(y|x)
    Delta_l = clamp(1 + (max(r_w, 1) - r_l)^-1.5, max 5)
    L = -log sigma(-log sum_l exp(Delta_l beta (rho_l - rho_w)))

With one loser and Delta = 1 this is sigmoid DPO.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reward_gap_weight(winner_reward: Tensor, loser_reward: Tensor, maximum: float = 5.0) -> Tensor:
    """Delta (B, M) of winners' rewards (B,) and losers' rewards (B, M): near losers weigh more."""
    gap = winner_reward.clamp_min(1.0)[:, None] - loser_reward
    return (1 + gap.clamp_min(1e-6) ** -1.5).clamp(max=maximum)


def listwise_dpo(
    log_ratio_winner: Tensor, log_ratio_losers: Tensor, delta: Tensor, valid: Tensor, beta: float
) -> Tensor:
    """Loss (B,) of lists.

    Args:
        log_ratio_winner: rho_w (B,); log_ratio_losers: rho_l (B, M).
        delta: (B, M); valid: (B, M) bool, True where there is a loser; every row needs one.
        beta: strength of the pull towards the reference.
    """
    exponent = delta * beta * (log_ratio_losers - log_ratio_winner[:, None])
    return F.softplus(exponent.masked_fill(~valid, -torch.inf).logsumexp(1))
