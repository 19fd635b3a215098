"""Recipe section `features`: user sequences."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class FeaturesConfig(Section):
    """Lengths and life times of the sequences that Feast serves."""

    recent_length: int = Field(20, ge=1, description="recent items of each kind")
    long_length: int = Field(100, ge=1, description="items of the long history")
    ttl_days: int = Field(90, ge=1, description="older sequences count as none")
