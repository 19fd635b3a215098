"""Recipe section `preference`: alignment of the generator with what shoppers preferred."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class PreferenceConfig(Section):
    """Listwise DPO with an SFT anchor."""

    steps: int = Field(160, ge=0)
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    beta: float = Field(0.2, gt=0)
    anchor_weight: float = Field(0.5, ge=0)
    queries: int = Field(2500, ge=10, description="newest training queries that preferences are taken from")
    beam_width: int = Field(100, ge=1, description="own beams that losers are taken from")
    losers: int = Field(6, ge=1, le=32)
    min_reward_gap: float = Field(0.2, ge=0)
    max_delta: float = Field(5.0, gt=0)
    visual_guard_cosine: float = Field(0.2, ge=-1, le=1, description="own beams less alike than this are losers")
    checks: int = Field(4, ge=1, description="evaluations on validation days; the best checkpoint is kept if it wins")
    tolerance: float = Field(0.003, ge=0, description="loss of HR@10 that the gate allows")
    similarity_tolerance: float = Field(
        0.01, ge=0, description="loss that the gate allows in the mean cosine of photo and top 10"
    )
