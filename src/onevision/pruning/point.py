"""One setting on the curve: what it finds, what it costs, how long it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from onevision.generator.token_pruning import PruningSetting


@dataclass
class TowerCost:
    """What the image tower costs a query: counted MFLOPs, and looks at a photo.

    Patches are those that go through all layers, mean over the looks at a photo; None of a tower that none can leave.
    """

    mflops: float
    looks_mean: float
    patches_mean: float | None = None
    patches_p95: float | None = None


@dataclass
class Latency:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, taken: list[float]) -> Self:
        """From what each turn took."""
        return cls(*map(float, np.percentile(taken, [50, 95, 99])))


@dataclass
class Timing:
    """Latency of single queries and of batches, and queries a second in the fastest batch."""

    single: Latency
    batch: Latency
    queries_per_second: float

    @classmethod
    def of(cls, singles: list[float], batches: list[float], size: int) -> Self:
        """From what single queries and batches of this size took, in milliseconds."""
        return cls(Latency.of(singles), Latency.of(batches), 1000 * size / min(batches))


@dataclass
class Point:
    """One setting on the curve; hit rates are shares of the calibration queries. A control has a rule of its own.

    `kept_mean` image tokens and `history_mean` tokens of the histories go on after the encoder's first layer, and
    `spared_mean` tokens of the context are left out by a code after the first, mean over queries that write one.
    `mflops` are those of generator and choice. Of settings that were timed, `prompt_to_items` is what these take, and
    `photo_to_items` a whole search once the photo is decoded: pixels, embedding, prompt, items.
    """

    name: str
    family: str
    setting: PruningSetting
    hr10: float
    hr50: float
    worst_department_loss: float
    kept_mean: float
    kept_p95: float
    steps_mean: float
    mflops: float
    tower: TowerCost
    history_mean: float = 0.0
    spared_mean: float = 0.0
    prompt_to_items: Timing | None = None
    photo_to_items: Timing | None = None

    @property
    def cost(self) -> float:
        """MFLOPs of image tower, generator and choice."""
        return self.mflops + self.tower.mflops

    def as_dict(self) -> dict[str, Any]:
        """For `pareto.json`."""
        return asdict(self) | {"setting": self.setting.model_dump(), "cost": self.cost}
