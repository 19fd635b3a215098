"""Recipe section `snapshot`: where the snapshot of a run comes from when none is given."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from onevision.config import Section


class SnapshotConfig(Section):
    """Source of the snapshot; the other keys belong to the synthetic shop."""

    source: Literal["synthetic", "grocery"] = "synthetic"
    items: int = Field(2400, ge=72, description="products in the catalogue, in families of six; 72 is one a category")
    users: int = Field(1200, ge=10, description="shoppers; a few never come")
    days: int = Field(30, ge=12, description="days of the log; the last 8 are validation and test, 4 train at least")
    cold_days: int = Field(
        8, ge=1, description="last days, in which new items and users come: 8 and the nights to come"
    )
    season: float = Field(0.0, ge=0, description="swing of the interest in categories over four weeks, in log-odds")
    queries: int = Field(9000, ge=50, description="searches by photo over all days")
    image_size: int = Field(64, ge=32, le=256, description="pixels a side of every picture")
    cold_item_share: float = Field(0.15, ge=0, le=0.5, description="items that enter during the last cold_days")
    cold_user_share: float = Field(0.1, ge=0, le=0.5, description="users who first come in the last cold_days")

    @model_validator(mode="after")
    def _days_to_train_on(self) -> Self:
        if self.days < self.cold_days + 4:
            raise ValueError(f"{self.days} days of which {self.cold_days} are cold: 4 others are needed at least")
        return self
