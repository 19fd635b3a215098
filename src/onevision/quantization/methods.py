"""Fit every encoding of a report on the same rows, with a like budget of codes and training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onevision.quantization.baselines.autoencoder import Budget
from onevision.quantization.baselines.fsq import FSQ
from onevision.quantization.baselines.hierarchical import HierarchicalKMeans
from onevision.quantization.baselines.opq import OPQ
from onevision.quantization.baselines.rq_vae import RQVAE
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.encoding import Encoding
from onevision.quantization.residual import ResidualKMeans
from onevision.quantization.vrq import VRQ, ViewPairs

HIDDEN = 256
"""Width of the hidden layers of RQ-VAE's and FSQ's autoencoders."""


def fit_methods(
    x: NDArray[np.float32], pairs: ViewPairs, config: QuantizationConfig, *, ablations: bool = False, seed: int
) -> dict[str, Encoding]:
    """Name -> encoding fitted on `x` (N, d).

    Residual and hierarchical k-means have the residual levels of `config`; RQ-VAE and FSQ have as many codes again as
    OPQ adds to the others, so that all the rest share one budget of bits.

    Args:
        pairs: rows of `x` that show one product; without any there is no VRQ.
        ablations: also VRQ with each of its losses taken out, which costs a training each.
    """
    dim, sizes = x.shape[1], config.codebook_sizes
    iterations = config.kmeans_iterations
    methods: dict[str, Encoding] = {
        "rq_kmeans": ResidualKMeans(dim, sizes, opq_subspaces=0).fit(x, iterations=iterations, seed=seed),
        "hierarchical_kmeans": HierarchicalKMeans(sizes).fit(x, iterations=iterations, seed=seed),
    }
    budget, all_sizes = Budget.of(config), sizes + (config.opq_size,) * config.opq_subspaces
    if config.opq_subspaces:
        rq_opq = ResidualKMeans(dim, sizes, opq_subspaces=config.opq_subspaces, opq_size=config.opq_size)
        methods["rq_opq"] = rq_opq.fit(x, iterations=iterations, seed=seed)
        subspaces = 4 if dim % 4 == 0 else 2
        size = min(2 ** round(math.log2(math.prod(all_sizes)) / subspaces), 256, 2 ** int(math.log2(len(x))))
        methods["opq"] = OPQ(subspaces, size).fit(x, seed=seed)
    methods["rq_vae"] = RQVAE(dim, all_sizes, hidden=HIDDEN).fit(x, budget, seed=seed)
    methods["fsq"] = FSQ(dim, all_sizes, hidden=HIDDEN).fit(x, budget, seed=seed)
    if len(pairs.u):
        methods["vrq"] = VRQ(dim, config).fit(x, pairs, seed=seed)
        for name, ablated in ablated_configs(config).items() if ablations else ():
            methods[name] = VRQ(dim, ablated).fit(x, pairs, seed=seed)
    return methods


def ablated_configs(config: QuantizationConfig) -> dict[str, QuantizationConfig]:
    """VRQ's recipe without each of its losses (fields that end in `_weight`), and without training of its keys."""
    weights = [field for field in type(config).model_fields if field.endswith("_weight") and getattr(config, field)]
    removed = {f"vrq_without_{field.removesuffix('_weight')}": {field: 0.0} for field in weights}
    untrained = {"vrq_closed_form": {"steps": 0}} if config.steps else {}
    return {name: config.model_copy(update=update) for name, update in (removed | untrained).items()}
