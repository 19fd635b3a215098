"""VRQ: vision-aligned residual quantisation (arXiv 2510.05759; how views are made to agree is our reconstruction).

Views of a product shall share their first codes, while deep codes keep products apart. The first levels therefore look
at residuals through a map A on the directions that views agree on (`view_map.py`), and choose among keys K_l trained
(`key_training.py`) by

    L = w_a agreement + w_u usage + w_c commitment  [+ w_v view contrast + w_k category + w_m margin]

A level learns from the pairs whose codes agree so far: views that have parted cannot meet again, and would teach it to
put everything on few codes. Views are first moved apart: the encoder was trained on these very products, and draws
their views closer together than those of new ones. The codebook C_l of such a level holds the mean residual of each
code, so that nothing is lost to the levels that follow: residual k-means and OPQ over all directions. The losses in
brackets, gradients to A and a balanced last level are options that are off: ADR 7 has what was measured.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.errors import OneVisionError
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.key_training import Level, train_keys
from onevision.quantization.kmeans import kmeans, nearest, update
from onevision.quantization.residual import ResidualQuantizer
from onevision.quantization.view_map import LearnedViewMap, fit_view_map
from onevision.quantization.view_pairs import ViewPairs


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

        Raises:
            OneVisionError: a category loss without categories of the pairs.
        """
        config = self.config
        if config.category_weight and pairs.category is None:
            raise OneVisionError("quantization.category_weight needs the categories of products, which are not known")
        dims, shrinkage = self.view_dims, config.shrinkage
        if self.view_levels:
            mapping = fit_view_map(x, pairs.u, pairs.v, pairs.product, dims=dims, shrinkage=shrinkage)
            self.view_map.copy_(torch.from_numpy(mapping))
        whole = torch.from_numpy(np.ascontiguousarray(x))
        rest = whole
        for level in range(self.view_levels):
            seen = rest @ self.view_map
            keys = kmeans(seen, self.residual_sizes[level], iterations=config.kmeans_iterations, seed=seed + level)
            if config.steps and len(pairs.u):
                keys = self._train_level(whole, rest, keys, pairs, level, seed=seed)
                seen = rest @ self.view_map  # the map may have been trained too
            codes = nearest(seen, keys)[0]
            book = update(rest, codes, self.codebook(level))[0]
            self.get_buffer(f"key_{level}").copy_(keys)
            self.codebook(level).copy_(book)
            rest = rest - book[codes]
            pairs = pairs.agreeing(codes.numpy())
        return self._fit_rest(
            rest,
            self.view_levels,
            iterations=config.kmeans_iterations,
            seed=seed,
            balance_last=config.balance_last_level,
        )

    def _train_level(
        self, whole: Tensor, rest: Tensor, start: Tensor, pairs: ViewPairs, level: int, *, seed: int
    ) -> Tensor:
        """Keys (K, r) of a level, trained from `start`; the first level trains the map as well where that is on.

        Args:
            whole, rest: (N, d) embeddings, and what the levels before leave of them.
        """
        seen = rest @ self.view_map
        views = Level(seen, before=whole @ self.view_map - seen, deepest=level == self.view_levels - 1)
        if self.config.learn_view_map and level == 0:
            views.table, views.look = rest, LearnedViewMap(rest, self.view_map)
        rng = np.random.default_rng([seed, level])
        trained = train_keys(views, start, pairs, self.config, rng, name=f"vrq level {level + 1}")
        if isinstance(views.look, LearnedViewMap):
            self.view_map.copy_(views.look.mapping().detach())
        self.loss_curve_ |= {f"{loss}, level {level + 1}": values for loss, values in trained.losses.items()}
        self.restarted_codes_ += trained.restarted
        return trained.keys
