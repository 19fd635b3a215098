"""Recipe section `snapshot`: where the snapshot of a run comes from when none is given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onevision.config import Section


class SnapshotConfig(Section):
    """Source of the snapshot; the other keys belong to the synthetic shop."""

    source: Literal["synthetic", "grocery"] = "synthetic"
    items: int = Field(2400, ge=72, description="products in the catalogue, in families of six; 72 is one a category")
    users: int = Field(1200, ge=10, description="shoppers; a few never come")
    days: int = Field(30, ge=12, description="days of the log; the last 8 are validation and test, 4 train at least")
    queries: int = Field(9000, ge=50, description="searches by photo over all days")
    image_size: int = Field(64, ge=32, le=256, description="pixels a side of every picture")
    cold_item_share: float = Field(0.15, ge=0, le=0.5, description="items that enter during the last 8 days")
    cold_user_share: float = Field(0.1, ge=0, le=0.5, description="users who first come in the last 8 days")
