"""Recipe section `features`: user sequences."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class FeaturesConfig(Section):
    """Lengths and life times of the sequences that Feast serves."""

    recent_length: int = Field(20, ge=1, description="recent items of each kind")
    long_length: int = Field(100, ge=1, description="items of the long history")
    intent_ttl_days: int = Field(30, ge=1, description="clicks and searches: a shopping mission is over by then")
    order_ttl_days: int = Field(120, ge=1, description="orders: longer than most goods take to be bought again")
    taste_ttl_days: int = Field(400, ge=1, description="long history: a year, so that a season meets its last one")
