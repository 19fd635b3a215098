"""Recipe section `pruning`: which settings are swept, and what a setting may lose."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from onevision.config import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class PruningConfig(Section):
    """Beams: early opening of branches and a margin of scores; the prompt: history and image tokens; the image tower:
    further looks at a photo, and patches."""

    open_below: tuple[int, ...] = Field(
        (400, 800), description="semantic IDs that branches may hold when beams are opened, swept"
    )
    margins: tuple[float, ...] = Field(
        (8.0, 12.0, 16.0, 20.0),
        description="nats behind the best beam at which beams are given up, swept alone and with those",
    )
    history: tuple[int, ...] = Field((3,), description="newest items of each history in the prompt, swept")
    masses: tuple[float, ...] = Field(
        (0.5, 0.7, 0.9), min_length=1, description="attention mass of image tokens kept, swept"
    )
    history_masses: tuple[Share, ...] = Field((), description="attention mass of the histories' tokens kept, swept")
    shared_masses: tuple[Share, ...] = Field(
        (), description="attention mass of image and histories kept, as of one set of tokens, swept"
    )
    decoder_masses: tuple[Share, ...] = Field(
        (), description="mass of the attention that writes the first code, of image tokens that the others read, swept"
    )
    min_tokens: int = Field(2, ge=1)
    second_looks: tuple[Share, ...] = Field(
        (),
        description="share of the calibration photos, those least like an item, that an image tower which looks more "
        "than once looks at further, swept",
    )
    tower_masses: tuple[float, ...] = Field(
        (0.7, 0.9, 0.95),
        min_length=1,
        description="attention mass of the patches that stay in an image tower which is a vision transformer, swept",
    )
    tower_depths: tuple[float, ...] = Field(
        (1 / 3, 2 / 3), min_length=1, description="share of its layers that all patches go through, swept with each"
    )
    max_loss: float = Field(
        0.003, ge=0, description="HR@10 and HR@50 that a setting may lose overall, against the best of all settings"
    )
    second_look_loss: float = Field(
        0.003,
        ge=0,
        description="the same for further looks that are left out, which never cost more than `max_loss` against "
        "reading everything",
    )
    max_department_loss: float = Field(
        0.02, ge=0, description="HR@10 that may be lost in a department, which has few queries"
    )
    queries: int = Field(1200, ge=10, description="calibration queries, from the validation days")
    timed_queries: int = Field(40, ge=5)
