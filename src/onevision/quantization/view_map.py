"""The directions that views of a product agree on: linear discriminants (Fisher; Rao 1948), in closed form.

`LearnedViewMap` trains them on from there by gradient.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def fit_view_map(
    x: NDArray[np.float32],
    u: NDArray[np.int64],
    v: NDArray[np.int64],
    product: NDArray[np.int64],
    *,
    dims: int,
    shrinkage: float,
) -> NDArray[np.float32]:
    """Map (d, dims) to the directions with most variance between products for their variance between views.

    Solves S_b a = lambda (S_w + s t I) a, with S_w the scatter of a pair about its mean, S_b the covariance of the
    products' means, s the shrinkage and t the mean variance in S_w. The mapped vectors have a total variance of 1.

    Args:
        x: (N, d).
        u, v: (P,) rows of two views of one product; product: (P,) its number.
    """
    difference = (x[u] - x[v]).astype(np.float64) / np.sqrt(2)
    within = difference.T @ difference / len(difference)
    number = np.unique(product, return_inverse=True)[1]
    sums = np.zeros((number.max() + 1, x.shape[1]))
    np.add.at(sums, number, (x[u] + x[v]) / 2)
    between = np.cov(sums.T / np.bincount(number))
    noise = within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    vectors = scipy.linalg.eigh(between, noise)[1]
    chosen = vectors[:, ::-1][:, : min(dims, x.shape[1])]
    # The sign of an eigenvector is free: fixed, so that every machine writes the same map.
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])])
    spread = np.sqrt(((x - x.mean(0)) @ chosen).var(0).sum())
    return (chosen / spread).astype(np.float32)


class LearnedViewMap(nn.Module):
    """A map that is trained: scaled at every step to a total variance of 1, so that no loss is met by shrinking it.

    Args:
        x: (N, d) what it maps.
        start: (d, r) in closed form.
    """

    covariance: Tensor

    def __init__(self, x: Tensor, start: Tensor) -> None:
        super().__init__()
        self.free = nn.Parameter(start.clone())
        self.register_buffer("covariance", torch.cov(x.T, correction=0))

    def mapping(self) -> Tensor:
        """(d, r)."""
        return self.free / (self.free * (self.covariance @ self.free)).sum().sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) -> (N, r)."""
        return x @ self.mapping()
