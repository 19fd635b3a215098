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
    max_image_pixels: int = Field(50_000_000, ge=1, description="larger pictures are quarantined undecoded")
    image_sample: float = Field(1.0, gt=0, le=1, description="share of the pictures that are decoded to check them")
