"""VRQ: vision-aligned residual quantisation (arXiv 2510.05759; how views are made to agree is our reconstruction).

Views of a product shall share their first codes, while deep codes keep products apart. The first levels therefore look
at residuals through a map A on the directions that views agree on (`view_map.py`), and choose among keys K_l trained by

    L = w_a agreement + w_u usage + w_c commitment

A level learns from the pairs whose codes agree so far: views that have parted cannot meet again, and would teach it to
put everything on few codes. Views are first moved apart: the encoder was trained on these very products, and draws
their views closer together than those of new ones. The codebook C_l of such a level holds the mean residual of each
code, so that nothing is lost to the levels that follow: residual k-means and OPQ over all directions. ADR 7 has what
was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from onevision.quantization.config import QuantizationConfig
from onevision.quantization.kmeans import kmeans, nearest, update
from onevision.quantization.losses import code_agreement, commitment, soft_codes, usage
from onevision.quantization.residual import ResidualQuantizer
from onevision.quantization.view_map import fit_view_map

RESTART_EVERY = 50
"""Steps after which keys that were the code of no pair's mean are moved to a view."""


@dataclass
class ViewPairs:
    """Training pairs: two pictures of one product, and what they show.

    Attributes:
        u, v: (P,) rows of the embedding table.
        product: (P,) product numbers.
    """

    u: NDArray[np.int64]
    v: NDArray[np.int64]
    product: NDArray[np.int64]

    def agreeing(self, codes: NDArray[np.int64]) -> ViewPairs:
        """The pairs both of whose pictures have one code; codes (N,)."""
        same = codes[self.u] == codes[self.v]
        return ViewPairs(self.u[same], self.v[same], self.product[same])


class VRQ(ResidualQuantizer):
    """Residual quantiser whose first levels learn that views of a product agree.

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
            view_dims=min(config.view_dims, dim),
            view_levels=min(config.view_levels, len(config.codebook_sizes)),
        )
        self.config = config
        self.loss_curve_: dict[str, list[float]] = {}
        self.restarted_codes_ = 0

    def fit(self, x: NDArray[np.float32], pairs: ViewPairs, *, seed: int = 0) -> Self:
        """Learn map, keys and codebooks.

        Args:
            x: (N, d) embeddings that may be trained on, catalogue and shoppers' pictures together.
            pairs: rows of `x` that show one product; at least one where levels are aligned.
        """
        config = self.config
        dims, shrinkage = self.view_dims, config.shrinkage
        if self.view_levels:
            mapping = fit_view_map(x, pairs.u, pairs.v, pairs.product, dims=dims, shrinkage=shrinkage)
            self.view_map.copy_(torch.from_numpy(mapping))
        rest = torch.from_numpy(np.ascontiguousarray(x))
        for level in range(self.view_levels):
            seen = rest @ self.view_map
            keys = kmeans(seen, self.residual_sizes[level], iterations=config.kmeans_iterations, seed=seed + level)
            if config.steps and len(pairs.u):
                keys = self._train_keys(seen, keys, pairs, level, np.random.default_rng([seed, level]))
            codes = nearest(seen, keys)[0]
            book = update(rest, codes, self.codebook(level))[0]
            self.get_buffer(f"key_{level}").copy_(keys)
            self.codebook(level).copy_(book)
            rest = rest - book[codes]
            pairs = pairs.agreeing(codes.numpy())
        return self._fit_rest(rest, self.view_levels, iterations=config.kmeans_iterations, seed=seed)

    def _train_keys(
        self, seen: Tensor, start: Tensor, pairs: ViewPairs, level: int, rng: np.random.Generator
    ) -> Tensor:
        """Keys (K, r) of a level, trained on pairs of mapped residuals `seen` (N, r)."""
        config = self.config
        keys = nn.Parameter(start.clone())
        optimizer = torch.optim.Adam([keys], lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        scale = nearest(seen, start)[1].mean().item()
        taken = torch.zeros(len(start), dtype=torch.long)
        for step in tqdm(range(config.steps), desc=f"vrq level {level + 1}", disable=None):
            rows = rng.integers(0, len(pairs.u), min(config.batch_size, len(pairs.u)))
            u, v = seen[pairs.u[rows]], seen[pairs.v[rows]]
            mean = (u + v) / 2
            u, v = (mean + config.view_spread * (view - mean) for view in (u, v))
            to_mean = _distances(mean, keys)
            code = to_mean.argmin(1).detach()
            log_u, log_v = (soft_codes(_distances(view, keys), config.temperature * scale) for view in (u, v))
            losses = {
                "agreement": config.agreement_weight * code_agreement(log_u, log_v, code),
                "usage": config.usage_weight * usage(torch.cat([log_u, log_v]), config.usage_floor),
                "commitment": config.commitment_weight * commitment(to_mean, code) / scale,
            }
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
            taken += torch.bincount(code, minlength=len(taken))
            if (step + 1) % RESTART_EVERY == 0:
                self.restarted_codes_ += _restart(keys, taken, u, rng)
            if step % max(1, config.steps // 50) == 0:
                for name, value in losses.items():
                    self.loss_curve_.setdefault(f"{name}, level {level + 1}", []).append(value.item())
        return keys.detach()


def _distances(x: Tensor, keys: Tensor) -> Tensor:
    """Squared distances (N, K)."""
    return x.square().sum(1, keepdim=True) - 2 * x @ keys.T + keys.square().sum(1)


@torch.no_grad()
def _restart(keys: Tensor, taken: Tensor, views: Tensor, rng: np.random.Generator) -> int:
    """Move keys that nothing took to views drawn at random, and count anew; returns how many."""
    dead = (taken == 0).nonzero().flatten()
    keys[dead] = views[torch.from_numpy(rng.integers(0, len(views), len(dead)))]
    taken.zero_()
    return len(dead)
