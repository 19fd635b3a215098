"""FSQ: finite scalar quantisation, codes without codebooks (arXiv 2309.15505)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
import vector_quantize_pytorch
from numpy.typing import NDArray
from torch import Tensor, nn

from onevision.quantization.baselines.autoencoder import Budget, train

LEARNING_RATE = 3e-3


class FSQ(nn.Module):
    """Autoencoder whose narrow middle is rounded, around `FSQ` of vector-quantize-pytorch.

    A code is a group of rounded channels, of 8, 4 or 2 steps each, with as many combinations as the codebook that it
    stands for (rounded down to a power of two). Same rows and rows a step as VRQ (`Budget`). The groups are of one
    rank: the first code is not coarser than the last.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...], *, hidden: int) -> None:
        super().__init__()
        levels = [scalar_levels(size) for size in codebook_sizes]
        self.codebook_sizes = tuple(int(np.prod(group)) for group in levels)
        self.widths = [len(group) for group in levels]
        self.dim = dim
        self.groups: Any = nn.ModuleList(
            vector_quantize_pytorch.FSQ(group, preserve_symmetry=2 in group) for group in levels
        )
        self.encoder = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, sum(self.widths)))
        self.decoder = nn.Sequential(nn.Linear(sum(self.widths), hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) -> rebuilt (N, d), and no loss of the codes."""
        return self.decoder(torch.cat([values for values, _ in self._quantise(x)], 1)), torch.zeros(())

    def _quantise(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Rounded values (N, channels) and codes (N,) of every group."""
        # Vectors of unit length are scaled to components of unit variance, or everything starts at the middle step.
        parts = self.encoder(x * self.dim**0.5).split(self.widths, 1)
        found = [group(part[None]) for group, part in zip(self.groups, parts, strict=True)]
        return [(values[0], codes[0]) for values, codes in found]

    def fit(self, x: NDArray[np.float32], budget: Budget, *, seed: int) -> Self:
        """Learn from (N, d)."""
        torch.manual_seed(seed)
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        table = torch.from_numpy(np.ascontiguousarray(x))
        train(self, table, budget, learning_rate=LEARNING_RATE, name="fsq", seed=seed)
        return self

    @torch.no_grad()
    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, L)."""
        codes = [codes for _, codes in self._quantise(torch.from_numpy(np.ascontiguousarray(x)))]
        return torch.stack(codes, 1).numpy().astype(np.int16)

    @torch.no_grad()
    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, L) -> (N, d)."""
        table = torch.from_numpy(codes.astype(np.int64))
        values = [group.indices_to_codes(table[None, :, n])[0] for n, group in enumerate(self.groups)]
        return self.decoder(torch.cat(values, 1)).numpy()


def scalar_levels(size: int) -> list[int]:
    """Steps a channel for a codebook of `size` codes: eights, and fours or a two for what is left.

    >>> [scalar_levels(size) for size in (4, 32, 100, 128, 4096)]
    [[4], [8, 4], [8, 8], [8, 4, 4], [8, 8, 8, 8]]
    """
    bits = size.bit_length() - 1
    eights, rest = divmod(bits, 3)
    if rest == 1 and eights:
        return [8] * (eights - 1) + [4, 4]
    return [8] * eights + ([2**rest] if rest else [])
