"""Hierarchical k-means: a tree of clusters, whose codes are the numbers of the children on the way down."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.quantization.kmeans import kmeans, nearest

Path = tuple[int, ...]


class HierarchicalKMeans:
    """Every cluster is clustered again by itself (vocabulary tree, Nister and Stewenius, CVPR 2006).

    Same rows, codes a level and iterations as residual k-means; here a code means something else below every parent.
    A cluster of fewer rows than codes has a child for each of its distinct rows, so a tree never has more centroids a
    level than there are rows.
    """

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        self.codebook_sizes = tuple(codebook_sizes)

    def fit(self, x: NDArray[np.float32], *, iterations: int = 20, seed: int = 0) -> Self:
        """Grow the tree from (N, d)."""
        table = torch.from_numpy(np.ascontiguousarray(x))
        self._children: dict[Path, Tensor] = {}
        inside: dict[Path, Tensor] = {(): torch.arange(len(x))}
        for size in self.codebook_sizes:
            below: dict[Path, Tensor] = {}
            for path, rows in inside.items():
                members = table[rows]
                centroids = kmeans(members, min(size, len(rows)), iterations=iterations, seed=seed)
                # Only children that hold a row: every path can be followed to the end.
                used, code = nearest(members, centroids)[0].unique(return_inverse=True)
                self._children[path] = centroids[used]
                for child in range(len(used)):
                    below[*path, child] = rows[code == child]
            inside = below
        return self

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, L)."""
        table = torch.from_numpy(np.ascontiguousarray(x))
        codes = np.zeros((len(x), len(self.codebook_sizes)), np.int16)
        inside: dict[Path, Tensor] = {(): torch.arange(len(x))}
        for level in range(len(self.codebook_sizes)):
            below: dict[Path, Tensor] = {}
            for path, rows in inside.items():
                code = nearest(table[rows], self._children[path])[0]
                codes[rows.numpy(), level] = code.numpy()
                for child in code.unique().tolist():
                    below[*path, child] = rows[code == child]
            inside = below
        return codes

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, L) -> (N, d): the centroid at the end of each path."""
        ends = [self._children[tuple(row[:-1])][row[-1]] for row in codes.tolist()]
        return torch.stack(ends).numpy()
