"""Recipe section `preference`: alignment of the generator with what shoppers preferred, and its reward model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onevision.config import Section


class PreferenceConfig(Section):
    """Preference alignment with an SFT anchor and a gate."""

    objective: Literal["dpo", "listwise_dpo", "rank_grpo"] = Field(
        "rank_grpo", description="pairs, lists against one winner, or whole rankings rewarded by place"
    )
    steps: int = Field(160, ge=0)
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(5e-4, gt=0)
    beta: float = Field(0.2, gt=0, description="scale of log-ratios in DPO and guards; GRPO: weight of the KL as well")
    anchor_weight: float = Field(0.5, ge=0, description="weight of -log p of the winner; 0 for none")
    queries: int = Field(2500, ge=10, description="newest training searches that preferences are taken from")
    beam_width: int = Field(100, ge=1, description="own beams that losers are taken from")
    losers: int = Field(6, ge=1, le=32)
    min_reward_gap: float = Field(0.2, ge=0, description="losers are at least so far below the winner's reward level")
    max_delta: float = Field(5.0, gt=0)
    guard_weight: float = Field(8.0, ge=0, description="weight of the guards' pairs; 0 for none")
    guard_places: int = Field(10, ge=1, description="first places of the parent's ranking that are guarded")
    visual_guard_margin: float = Field(
        0.05,
        ge=0,
        le=2,
        description="own items whose cosine to the photo is so far below the winner's are guarded; 2: none",
    )
    category_guard: bool = Field(True, description="own items of another category than the winner's are guarded")
    rerank_epochs: int = Field(16, ge=0, description="passes of the reranker over validation searches; 0: none")
    rerank_train_epochs: int = Field(12, ge=0, description="passes over training searches before these")
    rerank_likeness: float = Field(10.0, ge=0, description="weight of what the reranker loses in likeness to the photo")
    lists: int = Field(16, ge=2, description="rankings drawn for every search, whose rewards are compared (GRPO)")
    list_length: int = Field(10, ge=1, description="items of a ranking (GRPO)")
    checks: int = Field(4, ge=1, description="evaluations on validation days; the best checkpoint is kept if it wins")
    patience: int = Field(3, ge=1, description="checks in a row without a better NDCG@10 before training stops")
    tolerance: float = Field(
        0.003, ge=0, description="loss of HR@10 that the gate allows, of all and of personal clicks"
    )
    similarity_tolerance: float = Field(
        0.01, ge=0, description="loss that the gate allows in the mean cosine of photo and top 10"
    )
    relevance_weight: float = Field(0.5, ge=0, description="weight of the photo's likeness in the reward that is shown")
