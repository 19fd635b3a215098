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
from onevision.quantization.view_pairs import ViewPairs
from onevision.quantization.vrq import VRQ

HIDDEN = 256
"""Width of the hidden layers of RQ-VAE's and FSQ's autoencoders."""
OPTIONS: dict[str, float | bool] = {
    "contrast_weight": 0.3,
    "category_weight": 3.0,
    "margin_weight": 1.0,
    "learn_view_map": True,
    "balance_last_level": True,
}
"""Parts of VRQ that a recipe may leave off -> what an ablation puts them to (weights: ADR 7)."""


def fit_methods(
    x: NDArray[np.float32], pairs: ViewPairs, config: QuantizationConfig, *, ablations: bool = False, seed: int
) -> dict[str, Encoding]:
    """Name -> encoding fitted on `x` (N, d).

    Residual and hierarchical k-means have the residual levels of `config`; RQ-VAE and FSQ have as many codes again as
    OPQ adds to the others, so that all the rest share one budget of bits.

    Args:
        pairs: rows of `x` that show one product; without any there is no VRQ.
        ablations: also VRQ without each part that is on and with each that is off, which costs a training each.
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
        known = pairs.category is not None
        for name, ablated in ablated_configs(config, categories=known).items() if ablations else ():
            methods[name] = VRQ(dim, ablated).fit(x, pairs, seed=seed)
    return methods


def ablated_configs(config: QuantizationConfig, *, categories: bool = True) -> dict[str, QuantizationConfig]:
    """VRQ's recipe without each part that is on, with each that is off, and without training of its keys.

    Args:
        categories: whether they are known, which the category loss needs.
    """
    found: dict[str, dict[str, float | bool]] = {"vrq_closed_form": {"steps": 0}} if config.steps else {}
    losses = [field for field in type(config).model_fields if field.endswith("_weight")]
    for field in dict.fromkeys((*losses, *OPTIONS)):
        part = field.removesuffix("_weight")
        if getattr(config, field):
            found[f"vrq_without_{part}"] = {field: type(getattr(config, field))()}
        elif field in OPTIONS and (categories or field != "category_weight"):
            found[f"vrq_with_{part}"] = {field: OPTIONS[field]}
    return {name: config.model_copy(update=update) for name, update in found.items()}
