"""Balanced k-means: codes that are used alike, by entropic optimal transport (Sinkhorn; Cuturi, arXiv 1306.0895)."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.quantization.kmeans import nearest, update
from onevision.quantization.losses import squared_distances

SOFTNESS = 0.1
"""Of the transport plan, in units of the mean distance to the nearest centroid: small, so that rows have one code."""
ROUNDS = 50
ROWS = 2**16
"""Rows that are balanced at most: the plan of rows and codes is held at once."""


def sinkhorn(distances: Tensor, softness: float, rounds: int = ROUNDS) -> Tensor:
    """Transport plan of N rows to K codes that serves every row once and all codes alike.

    Args:
        distances: (N, K) costs; softness: epsilon, in their unit.

    Returns:
        (N, K), which sums to 1 / K over every column and to nearly 1 / N over every row.
    """
    rows, codes = distances.shape
    kernel = (-(distances - distances.amin(1, keepdim=True)) / softness).exp()
    of_row, of_code = torch.ones(rows), torch.ones(codes)
    tiny = torch.finfo(kernel.dtype).tiny
    for _ in range(rounds):
        of_row = 1 / (rows * (kernel @ of_code).clamp_min(tiny))
        of_code = 1 / (codes * (of_row @ kernel).clamp_min(tiny))
    return of_row[:, None] * kernel * of_code


def balanced_kmeans(x: Tensor, start: Tensor, *, iterations: int, seed: int) -> Tensor:
    """K-means from `start` (K, d) on rows (N, d), at most `ROWS` of them, that are dealt to codes used alike."""
    if len(x) > ROWS:
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:ROWS]]
    centroids = start
    softness = SOFTNESS * nearest(x, start)[1].mean().item()
    for _ in range(iterations):
        codes = sinkhorn(squared_distances(x, centroids), softness).argmax(1)
        centroids = update(x, codes, centroids)[0]
    return centroids
