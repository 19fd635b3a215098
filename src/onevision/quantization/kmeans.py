"""Lloyd's k-means in plain tensors: blocked, deterministic by seed, never an empty cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.quantization.gemm import fast_matmul

BLOCK = 16384
"""Rows that are quantised at a time."""
SCORES, ROWS = 2**20, 2048
"""Most scores and rows that are compared at a time: few enough to stay in the cache from one pass to the next."""
CHUNK = 64
"""Codes of which first only the largest score is looked for, which vectorises; its place is then found in one chunk."""
SEEDING_ROWS, SEEDING_ROUNDS = 2**14, 128
"""k-means++ on more rows or in more rounds ended no better (50,000 x 256, 1,024 codes, 10 iterations; 2026-11-21)."""


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every row.

    Args:
        x: (N, d); centroids: (K, d).

    Returns:
        codes (N,) int64 and squared distances (N,) float32; ties go to the smaller code.
    """
    half_norm = centroids.square().sum(1) / 2
    short = -len(centroids) % CHUNK if len(centroids) > 2 * CHUNK else 0
    if short:  # to whole chunks, with centroids that are infinitely far
        centroids = torch.nn.functional.pad(centroids, (0, 0, 0, short))
        half_norm = torch.nn.functional.pad(half_norm, (0, short), value=torch.inf)
    codes = torch.empty(len(x), dtype=torch.long)
    distances = torch.empty(len(x))
    rows = min(ROWS, max(1, SCORES // len(centroids)))
    scores = torch.empty(min(rows, len(x)), len(centroids))
    with fast_matmul():
        for start in range(0, len(x), rows):
            block = x[start : start + rows]
            # argmin ||x - c||^2 = argmax x.c - ||c||^2 / 2
            score = torch.mm(block, centroids.T, out=scores[: len(block)]).sub_(half_norm)
            best, codes[start : start + rows] = _largest(score)
            distances[start : start + rows] = (block.square().sum(1) - 2 * best).clamp_min_(0)
    return codes, distances


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Largest score of every row of (N, K) and the first place where it stands."""
    if scores.shape[1] <= 2 * CHUNK:
        return scores.max(1)
    chunks = scores.view(len(scores), -1, CHUNK)
    chunk = chunks.amax(2).argmax(1)
    best, place = chunks[torch.arange(len(scores)), chunk].max(1)
    return best, chunk * CHUNK + place


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
    before: Tensor | None = None
    for _ in range(iterations):
        codes, distances = nearest(x, centroids)
        if before is not None and torch.equal(codes, before):
            break
        centroids, counts = update(x, codes, centroids)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            furthest = distances.topk(min(len(empty), len(x))).indices
            centroids[empty[: len(furthest)]] = x[furthest]
        before = None if len(empty) else codes
    return centroids


def _plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeding on a sample; a large codebook draws several a round, as k-means|| does (arXiv 1203.6402)."""
    rows = min(64 * k, max(SEEDING_ROWS, 8 * k))
    if len(x) > rows:
        x = x[torch.randperm(len(x), generator=generator)[:rows]]
    chosen = torch.randint(len(x), (1,), generator=generator)
    closest = (x - x[chosen[0]]).square().sum(1)
    at_once = -(-k // SEEDING_ROUNDS)
    while len(chosen) < k:
        want = min(at_once, k - len(chosen))
        far = int((closest > 0).sum())
        weights = closest if far else torch.ones_like(closest)
        drawn = torch.multinomial(weights, min(want, far or len(x)), generator=generator)
        # Of rows drawn together only those count that none of the others would have made unlikely.
        between = torch.cdist(x[drawn], x[drawn]).square()
        earlier = torch.ones_like(between, dtype=torch.bool).tril(-1)
        drawn = drawn[between.masked_fill(~earlier, torch.inf).amin(1) >= closest[drawn] / 2]
        chosen = torch.cat([chosen, drawn])
        closest = torch.minimum(closest, nearest(x, x[drawn])[1])
    return x[chosen].clone()
