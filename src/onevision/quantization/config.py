"""Recipe section `quantization`: codebooks of VRQ and the losses that train them."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class QuantizationConfig(Section):
    """Vision-aligned residual quantisation (VRQ)."""

    codebook_sizes: tuple[int, ...] = Field((128, 64, 32), min_length=1, description="residual levels, coarse to fine")
    opq_subspaces: int = Field(2, ge=0, le=2, description="OPQ codes of the last residual; 0 for none")
    opq_size: int = Field(256, ge=2, le=256, description="codes a sub-space")
    projection_hidden: int = Field(256, ge=8)
    kmeans_iterations: int = Field(20, ge=1)
    steps: int = Field(400, ge=0)
    batch_size: int = Field(512, ge=8)
    learning_rate: float = Field(3e-4, gt=0)
    ema_decay: float = Field(0.98, gt=0, lt=1)
    temperature: float = Field(0.1, gt=0, description="of the view contrast and the code agreement")
    commitment_weight: float = Field(0.1, ge=0)
    contrast_weight: float = Field(0.3, ge=0)
    agreement_weight: float = Field(1.0, ge=0)
    margin_weight: float = Field(0.5, ge=0)
    margin: float = Field(0.2, ge=0)
    category_weight: float = Field(0.2, ge=0)
    balance_last_level: bool = Field(True, description="capacity-capped assignment of the last level in training")
    dead_code_share: float = Field(
        0.05, ge=0, le=1, description="collapse alarm: the largest share of a level's codes that may be unused"
    )
