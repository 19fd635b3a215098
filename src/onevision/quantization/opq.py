"""Optimised product quantisation of the last residual (Ge et al., CVPR 2013, the non-parametric form)."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.quantization.kmeans import kmeans, nearest


def fit_opq(
    x: Tensor, subspaces: int, size: int, *, rounds: int = 8, iterations: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Learn a rotation and one codebook a sub-space by turns.

    Args:
        x: (N, d), d divisible by `subspaces`.

    Returns:
        rotation (d, d), orthonormal, so that y = x @ rotation is split into equal parts; codebooks (S, K, d / S).
    """
    d = x.shape[1]
    if d % subspaces:
        raise ValueError(f"dimension {d} is not divisible by {subspaces} sub-spaces")
    rotation = _balanced_basis(x, subspaces)
    codebooks: Tensor | None = None
    for turn in range(rounds):
        parts = (x @ rotation).chunk(subspaces, 1)
        codebooks = torch.stack(
            [
                kmeans(
                    part,
                    size,
                    iterations=iterations,
                    seed=seed + s,
                    centroids=None if codebooks is None else codebooks[s],
                )
                for s, part in enumerate(parts)
            ]
        )
        if turn < rounds - 1:
            quantised = torch.cat([codebooks[s][nearest(p, codebooks[s])[0]] for s, p in enumerate(parts)], 1)
            u, _, vh = torch.linalg.svd(x.T @ quantised)  # orthogonal Procrustes
            rotation = u @ vh
    assert codebooks is not None
    return rotation, codebooks


def _balanced_basis(x: Tensor, subspaces: int) -> Tensor:
    """Principal directions dealt out in turns, so that every sub-space starts with the same variance."""
    _, vectors = torch.linalg.eigh(torch.cov(x.T))
    order = torch.arange(x.shape[1]).flip(0)
    dealt = torch.cat([order[s::subspaces] for s in range(subspaces)])
    return vectors[:, dealt].contiguous()
