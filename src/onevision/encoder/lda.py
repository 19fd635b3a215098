"""Closed-form linear discriminant analysis (Fisher 1936; shrinkage of Friedman 1989) over training embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh


def fit_lda(embedding: NDArray[np.float32], product: NDArray[np.int64], shrinkage: float) -> NDArray[np.float32]:
    """Map (d, d) to the right of an embedding: its columns solve S_b v = l S_w v with v' S_w v = 1.

    In the mapped space views of one product scatter alike in all directions. Each direction is then weighted by
    sqrt(l / (1 + l)), l / (1 + l) being the share of its scatter that tells products apart, so that noise fades.

    Args:
        embedding: (N, d).
        product: (N,) numbers; products with one row say nothing of S_w.
        shrinkage: S_w becomes (1 - a) S_w + a tr(S_w) / d I.
    """
    x = embedding.astype(np.float64)
    _, row, count = np.unique(product, return_inverse=True, return_counts=True)
    means = np.zeros((len(count), x.shape[1]))
    np.add.at(means, row, x)
    means /= count[:, None]
    residual = (x - means[row])[count[row] > 1]
    within = residual.T @ residual / max(1, len(residual) - int((count > 1).sum()))
    between = np.cov(means, rowvar=False, fweights=count)
    between -= within * len(count) / len(x)  # the views' scatter that is left in their mean
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    within += 1e-9 * np.trace(within) / len(within) * np.eye(len(within))  # d may exceed what the views span
    ratio, directions = eigh(between, within)
    ratio = ratio.clip(0)
    return (directions * np.sqrt(ratio / (1 + ratio))).astype(np.float32)
