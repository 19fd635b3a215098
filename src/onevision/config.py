"""Base of every section of a recipe: typed, frozen, unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a recipe; each stage defines its own in `<stage>/config.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
