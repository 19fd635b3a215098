"""Recipe section `pairing`: the split by time, the weights of pairs, and the cleaning rules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onevision.config import Section


class PairingConfig(Section):
    """Splits and positive pairs."""

    validation_days: int = Field(4, ge=1)
    test_days: int = Field(4, ge=1)
    order_weight: float = Field(2.0, gt=0)
    cart_weight: float = Field(1.5, gt=0)
    click_weight: float = Field(1.0, gt=0)
    same_item_weight: float = Field(1.0, gt=0)
    co_click_weight: float = Field(0.5, gt=0)
    max_co_click_pairs_per_item: int = Field(10, ge=0)
    max_pairs_per_item: int = Field(24, ge=1, description="same-item pairs kept an item")
    duplicate_hash_bits: int = Field(
        4, ge=0, le=64, description="pictures of one item whose perceptual hashes differ by no more may be near copies"
    )
    max_clicks_per_minute: float = Field(30.0, gt=0, description="faster users are bots; their events are dropped")
    engine: Literal["duckdb", "spark"] = Field("duckdb", description="what runs the SQL; both give the same pairs")
    memory_gb: float = Field(4.0, ge=0.25, description="DuckDB spills to disk beyond so much memory")
