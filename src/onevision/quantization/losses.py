"""The losses that train VRQ's keys; all are of one level, on squared distances (N, K) to its keys."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


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
