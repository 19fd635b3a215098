"""Recipe section `quantization`: codebooks of VRQ and the losses that train them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from onevision.config import Section


class QuantizationConfig(Section):
    """Vision-aligned residual quantisation (VRQ)."""

    codebook_sizes: tuple[Annotated[int, Field(ge=2, le=32_767)], ...] = Field(
        (64, 32, 128), min_length=1, description="residual levels, in order; codes are kept in 16 bits"
    )
    opq_subspaces: int = Field(2, ge=0, le=2, description="OPQ codes of the last residual; 0 for none")
    opq_size: int = Field(256, ge=2, le=256, description="codes a sub-space")
    view_levels: int = Field(
        2, ge=0, description="first levels that are aligned between views; 0 is residual k-means with OPQ"
    )
    view_dims: int = Field(32, ge=2, description="directions that they compare in; at most those of the embedding")
    shrinkage: float = Field(0.1, gt=0, le=1, description="of the scatter within products towards the identity")
    kmeans_iterations: int = Field(20, ge=1)
    steps: int = Field(300, ge=0, description="optimiser steps of the keys, a level")
    batch_size: int = Field(1024, ge=8, description="view pairs a step")
    learning_rate: float = Field(3e-3, gt=0)
    view_spread: float = Field(
        2.0, ge=1, description="a pair's views are moved this many times as far from their mean, as new products' lie"
    )
    temperature: float = Field(0.2, gt=0, description="of soft codes, in units of the mean distance to the nearest key")
    agreement_weight: float = Field(1.0, ge=0, description="both views take the code of their mean")
    usage_weight: float = Field(4.0, ge=0, description="soft codes are used as evenly as the floor asks")
    usage_floor: float = Field(
        0.8, gt=0, le=1, description="perplexity that a level's soft codes are held to, as a share of its codes"
    )
    commitment_weight: float = Field(0.5, ge=0, description="keys stay near the vectors that take them")
    contrast_weight: float = Field(0.0, ge=0, description="first codes tell a product among a batch's others")
    category_weight: float = Field(0.0, ge=0, description="first codes tell a linear head the category")
    margin_weight: float = Field(
        0.0, ge=0, description="the aligned codes tell products of a category apart (of a code, where none is known)"
    )
    margin: float = Field(1.0, ge=0, description="of `margin_weight`, in units of the mean distance to the nearest key")
    learn_view_map: bool = Field(False, description="the first level trains the directions together with its keys")
    balance_last_level: bool = Field(False, description="the last residual codebook is fitted to even use of its codes")
    dead_code_share: float = Field(
        0.05, ge=0, le=1, description="collapse alarm: the largest share of a level's codes that may be unused"
    )
