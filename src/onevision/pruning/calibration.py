"""The sweep: hit rates and cost of every setting, and the cheapest one that keeps the budget."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onevision.attention_mass import KeepRule
from onevision.decoding.ranker import GeneratorRanker
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.metrics.ranking import hit_rate
from onevision.pruning.canary import CODES_READ, KEPT_TOKENS
from onevision.pruning.config import PruningConfig
from onevision.pruning.cost import query_flops

BEAMS = 100
TIMED_BATCH, TIMED_BATCHES = 16, 20


@dataclass
class Point:
    """One setting on the curve; hit rates are shares of the calibration queries. A control has a rule of its own."""

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

    def as_dict(self) -> dict[str, Any]:
        """For `pareto.json`."""
        return asdict(self) | {"setting": self.setting.model_dump()}


class Sweep:
    """Measures settings of one generator on one set of calibration queries.

    Args:
        relevant: item numbers of the answer of each query; department: (Q,) its department.
    """

    def __init__(
        self, ranker: GeneratorRanker, queries: QuerySet, relevant: list[list[int]], department: NDArray[np.object_]
    ) -> None:
        self.ranker, self.queries = ranker, queries
        self.relevant, self.department = relevant, department
        self.baseline: NDArray[np.float64] | None = None
        self.counted: dict[str, dict[str, NDArray[np.int64]]] = {}
        """Of every setting by name: image tokens kept and codes read, (Q,)."""

    def measure(self, name: str, family: str, setting: PruningSetting, keep: KeepRule | None = None) -> Point:
        """Hit rates and counted cost of a setting; the first call sets the baseline that losses are counted from.

        Args:
            keep: a control's rule for image tokens, in place of the setting's.
        """
        self.ranker.use_pruning(setting, keep)
        ranking = self.ranker.rank(self.queries, BEAMS, 50, progress=f"prune {name}")
        hits = hit_rate(ranking.items, self.relevant, 10)
        if self.baseline is None:
            self.baseline = hits
        loss = self.baseline - hits
        by_department = [loss[self.department == d].mean() for d in sorted(set(self.department))]
        config = self.ranker.model.config
        self.counted[name] = {KEPT_TOKENS: ranking.kept_tokens, CODES_READ: ranking.steps}
        kept = float(ranking.kept_tokens.mean())
        steps = float(ranking.steps.mean())
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
            query_flops(config, kept, self._history(setting), steps) / 1e6,
        )

    def time(self, point: Point, count: int) -> None:
        """Latency of single queries, and throughput of batches of `TIMED_BATCH`, prompt to items, into `point`."""
        self.ranker.use_pruning(point.setting)
        singles = [self.queries.take([n]) for n in range(min(count, len(self.queries)))]
        self.ranker.rank(singles[0], BEAMS, 50)
        taken = []
        for query in singles:
            start = time.perf_counter()
            self.ranker.rank(query, BEAMS, 50)
            taken.append(1000 * (time.perf_counter() - start))
        point.latency_ms_p50, point.latency_ms_p95, point.latency_ms_p99 = map(
            float, np.percentile(taken, [50, 95, 99])
        )
        size = min(TIMED_BATCH, len(self.queries))
        batches = []
        for turn in range(TIMED_BATCHES):
            rows = (np.arange(size) + turn * size) % len(self.queries)
            batch = self.queries.take(rows)
            start = time.perf_counter()
            self.ranker.rank(batch, BEAMS, 50)
            batches.append(1000 * (time.perf_counter() - start))
        point.batch_ms_p50, point.batch_ms_p95, point.batch_ms_p99 = map(float, np.percentile(batches, [50, 95, 99]))
        point.queries_per_second = 1000 * size / min(batches)

    def _history(self, setting: PruningSetting) -> float:
        """Mean tokens of the recent histories in a prompt."""
        recent = (self.queries.recent_clicked, self.queries.recent_searched, self.queries.recent_ordered)
        longest = min(self.ranker.model.config.history_length, setting.history or math.inf)
        return float(np.mean([sum(min(len(items[n]), longest) for items in recent) for n in range(len(self.queries))]))


def choose(baseline: Point, points: list[Point], config: PruningConfig) -> Point | None:
    """The cheapest setting within the budget, or None if only reading every token is."""
    allowed = [
        p
        for p in points
        if baseline.hr10 - p.hr10 <= config.max_loss
        and baseline.hr50 - p.hr50 <= config.max_loss
        and p.worst_department_loss <= config.max_department_loss
        and p.mflops < baseline.mflops
    ]
    return min(allowed, key=lambda p: (p.mflops, p.name)) if allowed else None


def beats_controls(attention: Point, controls: list[Point]) -> bool:
    """Whether no rule that does not look at the attention is as good at the same number of image tokens."""
    return not any(c.hr10 >= attention.hr10 and c.hr50 >= attention.hr50 for c in controls)
