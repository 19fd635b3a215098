"""The sweep: hit rates and cost of every setting, and the cheapest one that keeps the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onevision.attention_mass import KeepRule
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.patch_pruning import PatchRule
from onevision.features.queries import QuerySet
from onevision.generator.prompts import without_shopper
from onevision.generator.token_pruning import PruningSetting
from onevision.metrics.ranking import hit_rate
from onevision.pruning.canary import CODES_READ, KEPT_TOKENS, PATCHES
from onevision.pruning.config import PruningConfig
from onevision.pruning.cost import query_flops
from onevision.pruning.photos import Photos

BEAMS = 100
TIMED_BATCH, TIMED_BATCHES = 16, 20
SAME_COST = 0.01
"""Costs that differ by less than this share of what reading everything costs are the same."""


@dataclass
class TowerCost:
    """What the image tower costs a query: patches that go through all layers, mean over the looks at a photo, counted
    MFLOPs, and the median time of one photo and of `TIMED_BATCH`, pixels to embedding."""

    patches_mean: float
    patches_p95: float
    mflops: float
    ms_p50: float = 0.0
    batch_ms_p50: float = 0.0


@dataclass
class Point:
    """One setting on the curve; hit rates are shares of the calibration queries. A control has a rule of its own.

    `mflops` and latencies are the generator's; `tower` is None where no patches can leave the image tower.
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
    latency_ms_p50: float = 0.0
    latency_ms_p95: float = 0.0
    latency_ms_p99: float = 0.0
    batch_ms_p50: float = 0.0
    batch_ms_p95: float = 0.0
    batch_ms_p99: float = 0.0
    queries_per_second: float = 0.0
    tower: TowerCost | None = None

    @property
    def cost(self) -> float:
        """MFLOPs of the generator, and of the image tower where they can be saved."""
        return self.mflops + (self.tower.mflops if self.tower else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """For `pareto.json`."""
        return asdict(self) | {"setting": self.setting.model_dump()}


class Sweep:
    """Measures settings of one generator on one set of calibration queries.

    Args:
        photos: those of the queries.
        relevant: item numbers of the answer of each query; department: (Q,) its department.
    """

    def __init__(
        self,
        ranker: GeneratorRanker,
        queries: QuerySet,
        photos: Photos,
        relevant: list[list[int]],
        department: NDArray[np.object_],
    ) -> None:
        self.ranker, self.queries, self.photos = ranker, queries, photos
        self.relevant, self.department = relevant, department
        self.baseline: NDArray[np.float64] | None = None
        self.counted: dict[str, dict[str, NDArray[Any]]] = {}
        """Of every setting by name: image tokens kept, codes read and patches kept, where some are not, (Q,)."""

    def measure(
        self,
        name: str,
        family: str,
        setting: PruningSetting,
        keep: KeepRule | None = None,
        patches: PatchRule | None = None,
    ) -> Point:
        """Hit rates and counted cost of a setting; the first call sets the baseline that losses are counted from.

        Args:
            keep, patches: a control's rules for image tokens and patches, in place of the setting's.
        """
        self.ranker.use_pruning(setting, keep)
        rule = patches or setting.patches
        queries, kept_patches = self.photos.look(self.queries, rule) if rule else (self.queries, None)
        ranking = self.ranker.rank(queries, BEAMS, 50, progress=f"prune {name}")
        hits = hit_rate(ranking.items, self.relevant, 10)
        if self.baseline is None:
            self.baseline = hits
        loss = self.baseline - hits
        by_department = [loss[self.department == d].mean() for d in sorted(set(self.department))]
        config = self.ranker.model.config
        self.counted[name] = {KEPT_TOKENS: ranking.kept_tokens, CODES_READ: ranking.steps}
        if kept_patches is not None:
            self.counted[name][PATCHES] = kept_patches
        kept = float(ranking.kept_tokens.mean())
        steps = float(ranking.steps.mean())
        flops = query_flops(config, kept, self._history(setting), steps)
        if self.ranker.choice:
            flops += self.ranker.choice.flops_an_item() * float((ranking.leaves >= 0).sum(1).mean())
        return Point(
            name,
            family,
            setting,
            float(hits.mean()),
            float(hit_rate(ranking.items, self.relevant, 50).mean()),
            float(max(by_department)),
            kept,
            float(np.percentile(ranking.kept_tokens, 95)),
            steps,
            flops / 1e6,
            tower=self._tower(rule, kept_patches),
        )

    def time(self, point: Point, count: int) -> None:
        """Latency of single queries, and throughput of batches of `TIMED_BATCH`, prompt to items, into `point`; and
        what the image tower takes, pixels to embedding, where it can be saved."""
        self.ranker.use_pruning(point.setting)
        count, size = min(count, len(self.queries)), min(TIMED_BATCH, len(self.queries))
        singles = [np.array([n]) for n in range(count)]
        batches = [(np.arange(size) + turn * size) % len(self.queries) for turn in range(TIMED_BATCHES)]
        asked = [self.queries.take(rows) for rows in (*singles, *batches)]
        taken = _milliseconds(lambda turn: self.ranker.rank(asked[turn], BEAMS, 50), len(asked))
        point.latency_ms_p50, point.latency_ms_p95, point.latency_ms_p99 = map(
            float, np.percentile(taken[:count], [50, 95, 99])
        )
        point.batch_ms_p50, point.batch_ms_p95, point.batch_ms_p99 = map(
            float, np.percentile(taken[count:], [50, 95, 99])
        )
        point.queries_per_second = 1000 * size / min(taken[count:])
        if point.tower:
            rule = point.setting.patches
            pixels = [self.photos.pixels(queries.image_id) for queries in asked]
            taken = _milliseconds(lambda turn: self.photos.embed(pixels[turn], rule), len(asked))
            point.tower.ms_p50, point.tower.batch_ms_p50 = map(
                float, (np.median(taken[:count]), np.median(taken[count:]))
            )

    def _tower(self, rule: PatchRule | None, kept: NDArray[np.float32] | None) -> TowerCost | None:
        """Counted cost where a rule kept so many patches (Q,), or all stayed."""
        layers = self.photos.encoder.patch_layers
        if layers is None:
            return None
        counts = np.array([layers.patches]) if kept is None else kept
        flops = layers.flops(float(counts.mean()), rule.depth if rule else 1.0)
        mflops = self.photos.encoder.looks * flops / 1e6
        return TowerCost(float(counts.mean()), float(np.percentile(counts, 95)), mflops)

    def _history(self, setting: PruningSetting) -> float:
        """Mean tokens of the recent histories and of the long one in a prompt."""
        queries = self.queries if self.ranker.model.config.shopper else without_shopper(self.queries)
        return float(self.ranker.prompts.build(queries, history=setting.history).lengths().double().mean())


def choose(baseline: Point, points: list[Point], config: PruningConfig) -> Point | None:
    """The cheapest setting within the budget, or None if only reading every token is.

    What early opening gains is not for sale: no other setting within the budget may find more than the budget more, at
    10 or at 50 items, without finding as much less at the other. And of settings that cost the same (`SAME_COST`) the
    one with the widest margin is taken: searches may be harder tomorrow, and beams that are given up do not come back.
    """
    allowed = [
        p
        for p in points
        if baseline.hr10 - p.hr10 <= config.max_loss
        and baseline.hr50 - p.hr50 <= config.max_loss
        and p.worst_department_loss <= config.max_department_loss
        and p.cost < baseline.cost
    ]
    unbeaten = [p for p in allowed if not any(_beats(rival, p, config.max_loss) for rival in allowed)]
    if not unbeaten:
        return None
    most = min(p.cost for p in unbeaten) + SAME_COST * baseline.cost
    return min((p for p in unbeaten if p.cost <= most), key=lambda p: (-(p.setting.margin or math.inf), p.cost, p.name))


def _beats(rival: Point, point: Point, budget: float) -> bool:
    gains = (rival.hr10 - point.hr10, rival.hr50 - point.hr50)
    return max(gains) > budget and min(gains) >= -budget


def beats_controls(attention: Point, controls: list[Point]) -> bool:
    """Whether no control is as good with the same mean number of image tokens or patches.

    Random ones and the centre do not look at the attention; the top ones do, but are as many for every picture.
    """
    return not any(c.hr10 >= attention.hr10 and c.hr50 >= attention.hr50 for c in controls)


def _milliseconds(answer: Callable[[int], object], turns: int) -> list[float]:
    """What each turn took; the first is taken once before."""
    answer(0)
    taken = []
    for turn in range(turns):
        start = time.perf_counter()
        answer(turn)
        taken.append(1000 * (time.perf_counter() - start))
    return taken
