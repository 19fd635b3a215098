"""Recipe section `publishing`: the promotion gate, and how long a store keeps bundles."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class PublishingConfig(Section):
    """What a challenger must show before it is promoted, and which bundles stay in the store."""

    min_hr10_of_dense: float = Field(
        0.95, ge=0, description="HR@10 as a share of dense neighbours' on the same queries"
    )
    max_hr50_loss_to_dense: float = Field(0.03, ge=0)
    max_invalid_rate: float = Field(0.0, ge=0)
    max_loss_to_champion: float = Field(0.005, ge=0, description="HR@10 and MRR@10 that may be lost to the champion")
    lease_minutes: float = Field(
        120, gt=0, description="how long a night holds the store; a night that died is followed by another after it"
    )
    keep_bundles: int = Field(10, ge=1, description="bundles that a store keeps, by their time of upload")
    keep_champion_days: float = Field(30, ge=0, description="days that a store keeps a bundle after it was champion")

    @property
    def rules(self) -> dict[str, float]:
        """What a decision depends on: everything but how long bundles and the store are kept."""
        return self.model_dump(mode="json", exclude={"keep_bundles", "keep_champion_days", "lease_minutes"})
