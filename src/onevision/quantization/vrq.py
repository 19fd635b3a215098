"""VRQ: vision-aligned residual quantisation (arXiv 2510.05759; the losses are our reconstruction, method section 4).

    L = w_c commitment + w_v view contrast + w_a code agreement + w_m margin + w_k category

Codebooks start from residual k-means over catalogue and shoppers' pictures together and follow by exponential moving
averages; the projection P learns by gradient. After training the codebooks are refined under the learnt P and OPQ is
fitted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from onevision.quantization.config import QuantizationConfig
from onevision.quantization.kmeans import update
from onevision.quantization.losses import (
    balanced_codes,
    code_agreement,
    commitment,
    product_margin,
    straight_through,
    view_contrast,
)
from onevision.quantization.residual import ResidualQuantizer

CONTRAST_LEVELS = (1.0, 0.5)
"""Weights of view contrast and code agreement on the first levels."""


@dataclass
class ViewPairs:
    """Training pairs: two pictures of one product, and what they show.

    Attributes:
        u, v: (P,) rows of the embedding table.
        product: (P,) product numbers.
        path: (P, 2) rows of the product's department and leaf category.
    """

    u: NDArray[np.int64]
    v: NDArray[np.int64]
    product: NDArray[np.int64]
    path: NDArray[np.int64]


class _Quantised(NamedTuple):
    z: Tensor
    rests: list[Tensor]
    codes: list[Tensor]
    quantised: list[Tensor]
    prefixes: list[Tensor]


class VRQ(ResidualQuantizer):
    """Residual quantiser whose projection and codebooks learn that views of a product agree.

    Args:
        dim: d, of the embeddings.
        config: recipe section `quantization`.
    """

    def __init__(self, dim: int, config: QuantizationConfig) -> None:
        super().__init__(
            dim,
            config.codebook_sizes,
            opq_subspaces=config.opq_subspaces,
            opq_size=config.opq_size,
            projection_hidden=config.projection_hidden,
        )
        self.config = config
        self.loss_curve_: dict[str, list[float]] = {}
        self.restarted_codes_ = 0

    def fit(self, x: NDArray[np.float32], pairs: ViewPairs, *, seed: int = 0) -> Self:
        """Learn projection and codebooks.

        Args:
            x: (N, d) embeddings that may be trained on, catalogue and shoppers' pictures together.
            pairs: rows of `x` that show one product.
        """
        config = self.config
        torch.manual_seed(seed)
        assert self.projection is not None
        cast(nn.Linear, self.projection[0]).reset_parameters()
        table = torch.from_numpy(np.ascontiguousarray(x))
        self.fit_codebooks(table, iterations=config.kmeans_iterations, seed=seed)
        if config.steps and len(pairs.u):
            self._train(table, pairs, seed)
            self.eval()
            self.fit_codebooks(table, iterations=config.kmeans_iterations // 2, seed=seed, warm=True)
        return self

    def _train(self, table: Tensor, pairs: ViewPairs, seed: int) -> None:
        config = self.config
        heads = nn.ModuleList(
            nn.Linear(self.dim, int(pairs.path[:, level].max()) + 1)
            for level in range(min(len(CONTRAST_LEVELS), len(self.residual_sizes)))
        )
        assert self.projection is not None
        parameters = [*self.projection.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        averages = [_MovingCodebook(self.codebook(level)) for level in range(len(self.residual_sizes))]
        rng = np.random.default_rng(seed)
        negatives = _SameCategory(pairs)
        self.train()
        for step in tqdm(range(config.steps), desc="vrq", disable=None):
            rows = rng.integers(0, len(pairs.u), min(config.batch_size, len(pairs.u)))
            other = negatives.draw(rows, rng)
            u, v, n = (self._quantise(table[index]) for index in (pairs.u[rows], pairs.v[rows], pairs.u[other]))
            losses = self._losses(u, v, n, heads, pairs, rows, other)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            for level, average in enumerate(averages):
                rest = torch.cat([u.rests[level], v.rests[level]]).detach()
                codes = torch.cat([u.codes[level], v.codes[level]])
                self.restarted_codes_ += average.step(rest, codes, config.ema_decay, rng)
            if step % max(1, config.steps // 50) == 0:
                for name, value in losses.items():
                    self.loss_curve_.setdefault(name, []).append(value.item())

    def _quantise(self, x: Tensor) -> _Quantised:
        z = self.project(x)
        rest, prefix = z, torch.zeros_like(z)
        result = _Quantised(z, [], [], [], [])
        for level in range(len(self.residual_sizes)):
            distances = self.distances(rest, level)
            last = level == len(self.residual_sizes) - 1
            codes = balanced_codes(distances) if last and self.config.balance_last_level else distances.argmin(1)
            quantised = self.codebook(level)[codes]
            prefix = prefix + quantised
            result.rests.append(rest)
            result.codes.append(codes)
            result.quantised.append(quantised)
            result.prefixes.append(straight_through(z, prefix))
            rest = rest - quantised
        return result

    def _losses(
        self,
        u: _Quantised,
        v: _Quantised,
        n: _Quantised,
        heads: nn.ModuleList,
        pairs: ViewPairs,
        rows: NDArray[np.int64],
        other: NDArray[np.int64],
    ) -> dict[str, Tensor]:
        config = self.config
        product = torch.from_numpy(pairs.product[rows])
        same = product[:, None] == product[None]
        path = torch.from_numpy(pairs.path[rows])
        agreement = category = torch.zeros(())
        # The whole reconstruction must still tell products apart: without this, agreement is bought with recall.
        contrast = view_contrast(u.prefixes[-1], v.prefixes[-1], same, config.temperature)
        for level, (weight, head) in enumerate(zip(CONTRAST_LEVELS, heads, strict=False)):
            contrast = contrast + weight * view_contrast(u.prefixes[level], v.prefixes[level], same, config.temperature)
            agreement = agreement + weight * code_agreement(
                self.distances(u.rests[level], level), self.distances(v.rests[level], level), config.temperature
            )
            target = path[:, min(level, path.shape[1] - 1)]
            for view in (u, v):
                category = category + F.cross_entropy(head(view.prefixes[level]), target) / 2
        # Without another product of the category the row's own product stands there and must not count.
        true_negative = torch.from_numpy(pairs.product[rows] != pairs.product[other])
        margin = product_margin(
            u.prefixes[-1][true_negative], v.prefixes[-1][true_negative], n.prefixes[-1][true_negative], config.margin
        )
        return {
            "commitment": config.commitment_weight
            * (commitment(u.rests, u.quantised) + commitment(v.rests, v.quantised)),
            "contrast": config.contrast_weight * contrast,
            "agreement": config.agreement_weight * agreement,
            "margin": config.margin_weight * (margin if true_negative.any() else torch.zeros(())),
            "category": config.category_weight * category,
        }


class _MovingCodebook:
    """A codebook by exponential moving averages (arXiv 1711.00937, appendix A), with restart of dead codes."""

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        self.counts = torch.ones(len(codebook))
        self.sums = codebook.clone()

    def step(self, rest: Tensor, codes: Tensor, decay: float, rng: np.random.Generator) -> int:
        """Move towards the rows of a batch; returns how many dead codes were restarted from its rows."""
        means, counts = update(rest, codes, self.codebook)
        share = counts * (len(self.codebook) / len(rest))
        self.counts.mul_(decay).add_(share, alpha=1 - decay)
        self.sums.mul_(decay).add_(means * share[:, None], alpha=1 - decay)
        self.codebook.copy_(self.sums / self.counts.clamp_min(1e-6)[:, None])
        dead = (self.counts < 0.02).nonzero().flatten()
        if len(dead):
            drawn = torch.from_numpy(rng.integers(0, len(rest), len(dead)))
            self.codebook[dead] = rest[drawn]
            self.sums[dead] = rest[drawn]
            self.counts[dead] = 1.0
        return len(dead)


class _SameCategory:
    """Draws, for rows of pairs, a pair of another product of the same leaf category where there is one."""

    def __init__(self, pairs: ViewPairs) -> None:
        leaf = pairs.path[:, -1]
        self.product = pairs.product
        self.leaf = leaf
        order = np.argsort(leaf, kind="stable")
        bounds = np.searchsorted(leaf[order], np.arange(int(leaf.max()) + 2))
        self.order, self.bounds = order, bounds

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        low, high = self.bounds[self.leaf[rows]], self.bounds[self.leaf[rows] + 1]
        drawn = self.order[low + (rng.random(len(rows)) * (high - low)).astype(np.int64)]
        again = self.product[drawn] == self.product[rows]
        second = self.order[low + (rng.random(len(rows)) * (high - low)).astype(np.int64)]
        return np.where(again, second, drawn)
