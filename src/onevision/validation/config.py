"""Recipe section `validation`: what stops a run and what is set aside."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class ValidationConfig(Section):
    """Policy of the validation stage."""

    max_quarantine_share: float = Field(
        0.05, ge=0, le=1, description="a table with a larger share of rows set aside stops the run"
    )
    min_rows: int = Field(1, ge=1, description="rows that a required table must keep")
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=50_000_000, description="larger pictures are quarantined undecoded"
    )
    image_sample: float = Field(1.0, gt=0, le=1, description="share of the pictures that are decoded to check them")

    memory_gb: float = Field(2.0, ge=0.5, description="DuckDB spills to disk beyond so much memory")

    # The nightly refresh: the newest day against those before it. Beyond these the night stops; halfway it warns.
    history_days: int = Field(7, ge=1, description="days that the newest one is compared with")
    min_volume: float = Field(0.2, gt=0, le=1, description="least events, searches and users, as a share of the usual")
    max_volume: float = Field(5.0, ge=1, description="most of them")
    max_click_through: float = Field(4.0, ge=1, description="factor by which click-through may change, up or down")
    max_null_change: float = Field(0.3, ge=0, le=1, description="rise of the share of rows without an optional field")
    max_category_shift: float = Field(0.6, ge=0, le=1, description="total variation distance of clicks by category")
    max_code_psi: float = Field(
        2.0, ge=0, description="population stability index of what is clicked, by the champion's first code"
    )
    max_unknown_items: float = Field(0.2, ge=0, le=1, description="share of the day's events on items of no table")
    max_items_gone: float = Field(0.3, ge=0, le=1, description="share of the champion's items that are gone")
    max_items_new: float = Field(0.5, ge=0, description="new items, as a share of the champion's")
    max_price_change: float = Field(1.5, ge=1, description="factor by which the median price may change, up or down")
    flood_clicks: int = Field(30, ge=1, description="clicks of a user on a day that are never a flood")
    flood_factor: float = Field(5.0, ge=1, description="so many times the busiest of the days before: set aside")
