"""Recipe section `encoder`: the tower, its losses and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from onevision.config import Section
from onevision.precision import Precision


class EncoderConfig(Section):
    """Multi-view alignment (method: InfoNCE + circle loss + category)."""

    tower: Literal["small-conv", "efficientnet-lite2", "transformers"] = Field(
        "small-conv",
        description="small-conv trains from scratch; efficientnet-lite2 is pretrained and frozen; "
        "transformers is the vision model that `backbone` names",
    )
    backbone: str | None = Field(
        None, description="hub name or folder of a `transformers` vision model with safetensors weights"
    )
    freeze_tower: bool = Field(
        True, description="whether a backbone stays as it is and only the head is trained; it then runs once a picture"
    )
    tower_learning_rate: float = Field(3e-5, gt=0, description="highest learning rate of a backbone that is trained")
    image_size: int | None = Field(
        None, ge=32, le=1024, description="pixels a side that the tower sees; by default what it was made for"
    )
    width: int = Field(32, ge=8, le=256, description="channels of the small tower's first stage")
    embedding_dim: int = Field(128, ge=8, le=1024, description="d of the embedding")
    category_weight: float = Field(0.3, ge=0.0, lt=1.0, description="w of e = normalize((1-w) x + w c)")
    category_dropout: float = Field(
        0.15, ge=0.0, le=1.0, description="share of catalogue views that are trained without their category"
    )
    augmentation: Literal["none", "affine"] = Field(
        "affine",
        description="affine mirrors, shifts, scales and turns training pictures, so that they are not learnt by heart",
    )
    test_time_augmentation: bool = Field(
        True,
        description="embed a picture as the mean of two looks at it: as it is, and mirrored and enlarged a little",
    )
    precision: Precision = Field("auto", description="of training; auto: bf16 where CPU or GPU has it natively")
    steps: int = Field(1400, ge=1, description="optimiser steps")
    checkpoint_every: int = Field(
        100, ge=0, description="steps between checkpoints, from which a killed training goes on; 0 writes none"
    )
    items_per_batch: int = Field(128, ge=2, description="P of the P x K sampler")
    views_per_item: int = Field(2, ge=2, description="K of the P x K sampler")
    click_pair_share: float = Field(
        0.25, ge=0.0, le=1.0, description="share of a batch's products that come with a product clicked for them"
    )
    click_affinity: float = Field(0.2, ge=0.0, le=1.0, description="weight of such a pair, beside 1 for one product")
    co_clicks: bool = Field(False, description="products clicked in one visit are such a pair, too")
    hard_negative_share: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="share of a batch's products that come with one that the encoder confuses with it",
    )
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate, of all but a backbone")
    weight_decay: float = Field(0.02, ge=0, description="AdamW's, decoupled")
    temperature: float = Field(0.07, gt=0, le=1, description="of InfoNCE at the start; it is learnt")
    infonce_weight: float = Field(1.0, ge=0, description="of InfoNCE in the loss")
    circle_weight: float = Field(0.25, ge=0, description="of circle loss in the loss")
    circle_warmup: float = Field(0.3, ge=0, le=1, description="share of the steps before circle loss joins")
    circle_margin: float = Field(0.4, gt=0, lt=1, description="m; the optima are 1 + m and -m")
    circle_gamma: float = Field(80.0, gt=0, description="scale of circle loss")
    category_loss_weight: float = Field(0.3, ge=0, description="of the category's cross-entropy in the loss")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="on the pooled vector that the head reads")
    lda_shrinkage: float | None = Field(
        None,
        ge=0,
        le=1,
        description="add a closed-form LDA map, its within-product scatter shrunk so far to a multiple of the identity",
    )

    @model_validator(mode="after")
    def _backbone_belongs_to_transformers(self) -> EncoderConfig:
        if (self.tower == "transformers") != (self.backbone is not None):
            raise ValueError(
                "`tower: transformers` and `backbone: <hub name or folder>` are given together or not at all"
            )
        return self
