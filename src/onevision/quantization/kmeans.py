"""Lloyd's k-means in plain tensors: blocked, deterministic by seed, never an empty cluster."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16384


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every row.

    Args:
        x: (N, d); centroids: (K, d).

    Returns:
        codes (N,) int64 and squared distances (N,) float32; ties go to the smaller code.
    """
    half_norm = centroids.square().sum(1) / 2
    codes, distances = [], []
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        # argmin ||x - c||^2 = argmin ||c||^2 / 2 - x.c
        score = torch.addmm(half_norm, block, centroids.T, alpha=-1)
        value, code = score.min(1)
        codes.append(code)
        distances.append((2 * value + block.square().sum(1)).clamp_min(0))
    if not codes:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0)
    return torch.cat(codes), torch.cat(distances)


def update(x: Tensor, codes: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Means (K, d) of the rows of each code, and counts (K,); an unused code keeps its centroid."""
    counts = torch.bincount(codes, minlength=len(centroids)).to(x.dtype)
    sums = torch.zeros_like(centroids).index_add_(0, codes, x)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids), counts


def kmeans(x: Tensor, k: int, *, iterations: int = 20, seed: int = 0, centroids: Tensor | None = None) -> Tensor:
    """K-means; an empty cluster takes the row that lies furthest from its own centroid.

    Args:
        x: (N, d) float32.
        centroids: start from these (K, d) instead of k-means++ on a sample.

    Returns:
        (K, d) centroids. With fewer distinct rows than `k` the rest are copies that nothing is assigned to.
    """
    generator = torch.Generator().manual_seed(seed)
    centroids = _plus_plus(x, k, generator) if centroids is None else centroids.clone()
    for _ in range(iterations):
        codes, distances = nearest(x, centroids)
        centroids, counts = update(x, codes, centroids)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            furthest = distances.topk(min(len(empty), len(x))).indices
            centroids[empty[: len(furthest)]] = x[furthest]
    return centroids


def _plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding on at most 64 rows a cluster."""
    if len(x) > 64 * k:
        x = x[torch.randperm(len(x), generator=generator)[: 64 * k]]
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    closest = (x - x[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        weights = closest if closest.sum() > 0 else torch.ones_like(closest)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        closest = torch.minimum(closest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()
