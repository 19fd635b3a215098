"""A small made-up shop of vectors: products, and views of them."""

from __future__ import annotations

import numpy as np

from onevision.quantization.view_pairs import ViewPairs


def shop(products: int = 120, views: int = 6, dim: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of products and noisy views of them, the noise in directions of its own."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(products, dim)) * np.r_[np.ones(dim // 2), np.zeros(dim // 2)]
    noise = rng.normal(size=(products, views, dim)) * np.r_[np.full(dim // 2, 0.2), np.ones(dim // 2)]
    x = (centre[:, None] + noise).reshape(-1, dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(products), views)


def pairs_of(product: np.ndarray) -> ViewPairs:
    """All pairs of two rows of one product."""
    u, v = np.nonzero((product[:, None] == product[None]) & ~np.eye(len(product), dtype=bool))
    return ViewPairs(u, v, product[u])
