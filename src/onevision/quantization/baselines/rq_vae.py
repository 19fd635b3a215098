"""RQ-VAE: residual codebooks inside an autoencoder (arXiv 2203.01941; semantic IDs of TIGER, arXiv 2305.05065)."""

from __future__ import annotations

from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from onevision.quantization.baselines.autoencoder import Budget, residual_mlp, train
from onevision.quantization.kmeans import BLOCK

LEARNING_RATE = 3e-4
COMMITMENT = 0.25
DECAY = 0.98


class RQVAE(nn.Module):
    """Autoencoder `x -> z -> sum of codes -> x` around `ResidualVQ` of vector-quantize-pytorch.

    Same rows, codes a level and rows a step as VRQ (`Budget`), but it learns from single pictures: nothing tells it
    which are views of one product. Codebooks start from k-means of a first batch and follow by moving averages with
    restart of dead codes.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...], *, hidden: int) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        self.encoder, self.decoder = residual_mlp(dim, hidden), residual_mlp(dim, hidden)
        self.quantizer = ResidualVQ(
            dim=dim,
            codebook_size=self.codebook_sizes,
            kmeans_init=True,
            decay=DECAY,
            commitment_weight=COMMITMENT,
            threshold_ema_dead_code=1,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) -> rebuilt (N, d), commitment loss."""
        z = x + self.encoder(x)
        quantised, _, losses = self.quantizer(z[None])
        return quantised[0] + self.decoder(quantised[0]), losses.sum()

    def fit(self, x: NDArray[np.float32], budget: Budget, *, seed: int) -> Self:
        """Learn from (N, d)."""
        torch.manual_seed(seed)
        table = torch.from_numpy(np.ascontiguousarray(x))
        for mlp in (self.encoder, self.decoder):
            cast(nn.Linear, mlp[0]).reset_parameters()
        with torch.no_grad():  # k-means on more rows than a step has
            most = max(budget.rows, 16 * max(self.codebook_sizes))
            self.train()
            self(table[torch.randperm(len(table))[:most]])
        train(self, table, budget, learning_rate=LEARNING_RATE, name="rq-vae", seed=seed)
        return self

    @torch.no_grad()
    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, L)."""
        codes = np.empty((len(x), len(self.codebook_sizes)), np.int16)
        for start in range(0, len(x), BLOCK):
            block = torch.from_numpy(np.ascontiguousarray(x[start : start + BLOCK]))
            codes[start : start + BLOCK] = self.quantizer((block + self.encoder(block))[None])[1][0].numpy()
        return codes

    @torch.no_grad()
    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, L) -> (N, d)."""
        z = self.quantizer.get_output_from_indices(torch.from_numpy(codes.astype(np.int64))[None])[0]
        return (z + self.decoder(z)).numpy()
