"""Recipe section `evaluation`: which held-out queries, how wide the beam, how sure the intervals."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class EvaluationConfig(Section):
    """Held-out comparison of all systems."""

    max_queries: int = Field(2000, ge=10, description="newest test queries that are measured")
    beam_width: int = Field(100, ge=1, le=1024, description="the width that is measured and served")
    bootstrap_samples: int = Field(1000, ge=100)
    recall_candidates: int = Field(200, ge=10, description="items that the cascade's recall hands to its ranker")
    ranker_trees: int = Field(200, ge=1)
    latency_queries: int = Field(60, ge=5)
    max_drift: float = Field(
        0.1, ge=0, le=1, description="fall of codebook use or view agreement since the full training that is warned of"
    )
    gallery: int = Field(12, ge=0, description="queries shown in the report")
