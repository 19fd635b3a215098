"""Hard negatives: products that the encoder, as it is now, takes for each other come into one batch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NEAREST = 10
"""A look-alike is drawn among so many nearest products."""


class LookAlikes:
    """The embedding that every product had when it was last in a batch, and who is near whom.

    Args:
        products: products of the training.
        dim: d of the embedding.
        share: share of the draws that give a look-alike.
    """

    def __init__(self, products: int, dim: int, share: float) -> None:
        self.share = share
        self.last = torch.zeros(products, dim)

    def update(self, product: Tensor, embedding: Tensor) -> None:
        """Note the mean embedding of each product of a batch: numbers (N,) and embeddings (N, d)."""
        numbers, row = product.unique(return_inverse=True)
        total = torch.zeros(len(numbers), self.last.shape[1]).index_add_(0, row, embedding.detach().float().cpu())
        self.last[numbers] = F.normalize(total, dim=1)

    def draw(self, product: int, rng: np.random.Generator) -> int | None:
        """One of the nearest other products; None for the rest of the draws, or for one that was in no batch yet."""
        if rng.random() >= self.share or not self.last[product].any():
            return None
        similarity = self.last @ self.last[product]
        similarity[product] = -torch.inf
        nearest = similarity.topk(min(NEAREST, len(similarity) - 1)).indices
        return int(nearest[rng.integers(len(nearest))])
