"""Recipe section `semantic_ids`: how views vote for an item's semantic ID."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class SemanticIdsConfig(Section):
    """ID assignment."""

    outlier_cosine: float = Field(0.5, ge=-1, le=1, description="views further from the item's medoid do not vote")
    main_view_weight: float = Field(2.0, gt=0)
    voted_levels: int = Field(2, ge=0, description="levels decided by vote; deeper ones by the mean residual")
    capacity: int | None = Field(
        None, ge=1, description="most items a semantic ID may have; none: they share it, told apart at read time"
    )
