"""OPQ by itself."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from onevision.quantization.kmeans import nearest
from onevision.quantization.opq import fit_opq


class OPQ:
    """Optimised product quantisation of the vectors themselves, without residual levels (Ge et al., CVPR 2013).

    Its codes are of parts, not of depths: the first ones say no more than the others.
    """

    def __init__(self, subspaces: int, size: int) -> None:
        self.codebook_sizes = (size,) * subspaces

    def fit(self, x: NDArray[np.float32], *, seed: int) -> Self:
        """Learn rotation and codebooks from (N, d)."""
        self._rotation, self._books = fit_opq(
            torch.from_numpy(x), len(self.codebook_sizes), self.codebook_sizes[0], seed=seed
        )
        return self

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, S)."""
        parts = (torch.from_numpy(x) @ self._rotation).chunk(len(self.codebook_sizes), 1)
        codes = [nearest(part, book)[0] for part, book in zip(parts, self._books, strict=True)]
        return torch.stack(codes, 1).numpy().astype(np.int16)

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, S) -> (N, d)."""
        table = torch.from_numpy(codes.astype(np.int64))
        parts = [book[table[:, s]] for s, book in enumerate(self._books)]
        return (torch.cat(parts, 1) @ self._rotation.T).numpy()
