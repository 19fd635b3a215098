"""Recipe section `pruning`: which settings are swept, and what a setting may lose."""

from __future__ import annotations

from pydantic import Field

from onevision.config import Section


class PruningConfig(Section):
    """Early opening of branches, then attention-mass pruning of image tokens."""

    open_below: tuple[int, ...] = Field(
        (100, 150, 200, 300, 400), description="semantic IDs that branches may hold when beams are opened, swept"
    )
    masses: tuple[float, ...] = Field((0.5, 0.6, 0.7, 0.8, 0.9, 0.95), description="attention mass kept, swept")
    min_tokens: int = Field(2, ge=1)
    max_loss: float = Field(0.003, ge=0, description="HR@10 and HR@50 that may be lost overall")
    max_department_loss: float = Field(
        0.02, ge=0, description="HR@10 that may be lost in a department, which has few queries"
    )
    queries: int = Field(1200, ge=10, description="calibration queries, from the validation days")
    timed_queries: int = Field(40, ge=5)
