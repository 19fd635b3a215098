"""Recipe section `encoder`: the tower, its losses and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onevision.config import Section


class EncoderConfig(Section):
    """Multi-view alignment (method: InfoNCE + circle loss + category)."""

    tower: Literal["small-conv", "efficientnet-lite2"] = Field(
        "small-conv", description="small-conv trains from scratch; efficientnet-lite2 is pretrained and frozen"
    )
    image_size: int = Field(64, ge=32, le=512, description="pixels a side that the tower sees")
    width: int = Field(32, ge=8, le=256, description="channels of the small tower's first stage")
    embedding_dim: int = Field(128, ge=8, le=1024)
    category_weight: float = Field(0.3, ge=0.0, lt=1.0, description="w of e = normalize((1-w) x + w c)")
    category_dropout: float = Field(0.15, ge=0.0, le=1.0)
    augmentation: Literal["none", "flip-crop"] = Field(
        "flip-crop", description="flip-crop mirrors and shifts training pictures, so that they are not learnt by heart"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the CPU has it natively")
    steps: int = Field(1400, ge=1, description="optimiser steps")
    items_per_batch: int = Field(128, ge=2, description="P of the P x K sampler")
    views_per_item: int = Field(2, ge=2, description="K of the P x K sampler")
    click_pair_share: float = Field(
        0.25, ge=0.0, le=1.0, description="share of a batch's products that come with a product clicked for them"
    )
    click_affinity: float = Field(0.2, ge=0.0, le=1.0, description="weight of such a pair, beside 1 for one product")
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    temperature: float = Field(0.07, gt=0, le=1)
    infonce_weight: float = Field(1.0, ge=0)
    circle_weight: float = Field(0.25, ge=0)
    circle_warmup: float = Field(0.3, ge=0, le=1, description="share of the steps before circle loss joins")
    circle_margin: float = Field(0.4, gt=0, lt=1)
    circle_gamma: float = Field(80.0, gt=0)
    category_loss_weight: float = Field(0.3, ge=0)
    head_dropout: float = Field(0.0, ge=0, lt=1)
