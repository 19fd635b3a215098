"""Recipe section `publishing`: the promotion gate."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class PublishingConfig(Section):
    """What a challenger must show before it is promoted."""

    min_hr10_of_dense: float = Field(
        0.95, ge=0, description="HR@10 as a share of dense neighbours' on the same queries"
    )
    max_hr50_loss_to_dense: float = Field(0.03, ge=0)
    max_invalid_rate: float = Field(0.0, ge=0)
    max_loss_to_champion: float = Field(0.005, ge=0, description="HR@10 and MRR@10 that may be lost to the champion")
