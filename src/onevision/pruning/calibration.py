"""The sweep: hit rates and cost of every setting, and the cheapest one that keeps the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onevision.attention_mass import KeepRule
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.model import Embedded
from onevision.encoder.patch_pruning import PatchRule
from onevision.features.queries import QuerySet
from onevision.generator.prompts import without_shopper
from onevision.generator.token_pruning import PruningSetting
from onevision.metrics.ranking import hit_rate
from onevision.pruning.canary import CODES_READ, HISTORY_TOKENS, KEPT_TOKENS, LAST_CONTEXT, LOOKS, PATCHES, counts_of
from onevision.pruning.config import PruningConfig
from onevision.pruning.cost import look_flops, query_flops
from onevision.pruning.photos import ONE_LOOK, Photos
from onevision.pruning.point import Point, Timing, TowerCost

BEAMS = 100
TIMED_BATCH, TIMED_BATCHES = 16, 20
SAME_COST = 0.01
"""Costs that differ by less than this share of what the generator costs that reads everything are the same."""


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
        """Of every setting by name, (Q,): image tokens kept, codes read, and what else it leaves some of out."""

    def measure(
        self,
        name: str,
        family: str,
        setting: PruningSetting,
        keep: KeepRule | None = None,
        keep_later: KeepRule | None = None,
        patches: PatchRule | None = None,
        again: NDArray[np.bool_] | None = None,
    ) -> Point:
        """Hit rates and counted cost of a setting; the first call sets the baseline that losses are counted from.

        Args:
            keep, keep_later, patches: a control's rules for tokens and patches, in place of the setting's.
            again: (Q,) a control's choice of the photos that are looked at further, in place of the setting's.
        """
        self.ranker.use_pruning(setting, keep, keep_later)
        queries, looks, kept_patches = self._look(setting, patches, again)
        ranking = self.ranker.rank(queries, BEAMS, 50, progress=f"prune {name}")
        hits = hit_rate(ranking.items, self.relevant, 10)
        if self.baseline is None:
            self.baseline = hits
        loss = self.baseline - hits
        by_department = [loss[self.department == d].mean() for d in sorted(set(self.department))]
        config = self.ranker.model.config
        counts = counts_of(ranking)
        used = {KEPT_TOKENS: True, CODES_READ: True, HISTORY_TOKENS: setting.prunes_history}
        used[LAST_CONTEXT] = setting.decoder_mass < 1
        self.counted[name] = {count: counts[count] for count, wanted in used.items() if wanted}
        if setting.second_look_below is not None:
            self.counted[name][LOOKS] = looks
        if kept_patches is not None:
            self.counted[name][PATCHES] = kept_patches
        kept = float(ranking.kept_tokens.mean())
        history = float(ranking.history_tokens.mean())
        steps = float(ranking.steps.mean())
        left, more = ranking.context_tokens - ranking.last_context, ranking.steps - 1
        spared = float((left * more).mean())
        flops = query_flops(config, kept, float(self.histories(setting).mean()), steps, history, spared)
        if self.ranker.choice:
            flops += self.ranker.choice.flops(float((ranking.leaves >= 0).sum(1).mean()))
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
            self._tower(setting, patches or setting.patches, looks, kept_patches),
            history,
            float(left[more > 0].mean()) if more.any() else 0.0,
        )

    def time(self, point: Point, count: int) -> None:
        """How long single queries and batches of `TIMED_BATCH` take, into `point`: from the prompt to the items, and
        from the pixels of the photos to the items, in one measurement."""
        self.ranker.use_pruning(point.setting)
        count, size = min(count, len(self.queries)), min(TIMED_BATCH, len(self.queries))
        singles = [np.array([n]) for n in range(count)]
        batches = [(np.arange(size) + turn * size) % len(self.queries) for turn in range(TIMED_BATCHES)]
        asked = [self.queries.take(rows) for rows in (*singles, *batches)]
        pixels = [self.photos.pixels(queries.image_id) for queries in asked]

        def from_prompt(turn: int) -> object:
            return self.ranker.rank(asked[turn], BEAMS, 50)

        def from_photo(turn: int) -> object:
            seen = self.photos.encoder.embed(pixels[turn], point.setting)
            return self.ranker.rank(replace(asked[turn], **seen.embedded._asdict()), BEAMS, 50)

        prompt, photo = _milliseconds((from_prompt, from_photo), len(asked))
        point.prompt_to_items = Timing.of(prompt[:count], prompt[count:], size)
        point.photo_to_items = Timing.of(photo[:count], photo[count:], size)

    @cached_property
    def first(self) -> QuerySet:
        """The queries with one look at each photo."""
        return self.photos.look(self.queries, ONE_LOOK)[0]

    @cached_property
    def similarity(self) -> NDArray[np.float32]:
        """How alike the first look at each photo is to the nearest item of its first code, (Q,)."""
        return self.photos.encoder.nearby.similarity(self.first.embedding)

    def _look(
        self, setting: PruningSetting, patches: PatchRule | None, again: NDArray[np.bool_] | None
    ) -> tuple[QuerySet, NDArray[np.int64], NDArray[np.float32] | None]:
        """The queries as a setting or a control sees their photos, looks at each (Q,), and patches that stayed (Q,)."""
        if patches or setting.patches:
            queries, seen = self.photos.look(self.queries, setting, patches)
            return queries, seen.looks, seen.patches
        looks = self.photos.encoder.encoder.looks
        if again is None and setting.second_look_below is not None:
            again = self.similarity < setting.second_look_below
        if again is None:
            return self.queries, np.full(len(self.queries), looks), None
        columns = {}
        for name in Embedded._fields:
            one, all_looks = getattr(self.first, name), getattr(self.queries, name)
            columns[name] = np.where(again.reshape(-1, *[1] * (one.ndim - 1)), all_looks, one)
        return replace(self.queries, **columns), np.where(again, looks, 1), None

    def _tower(
        self,
        setting: PruningSetting,
        rule: PatchRule | None,
        looks: NDArray[np.int64],
        kept: NDArray[np.float32] | None,
    ) -> TowerCost:
        """Counted cost of so many looks (Q,) where a rule kept so many patches (Q,), or all stayed."""
        layers = self.photos.encoder.encoder.patch_layers
        flops = 0.0 if setting.second_look_below is None else self.photos.encoder.nearby.flops(self.first.embedding)
        if layers is None:
            return TowerCost((flops + float(looks.mean()) * self._look_flops) / 1e6, float(looks.mean()))
        counts = np.array([layers.patches]) if kept is None else kept
        flops += float(looks.mean()) * layers.flops(float(counts.mean()), rule.depth if rule else 1.0)
        return TowerCost(flops / 1e6, float(looks.mean()), float(counts.mean()), float(np.percentile(counts, 95)))

    @cached_property
    def _look_flops(self) -> float:
        return look_flops(self.photos.encoder.encoder)

    def histories(self, setting: PruningSetting) -> NDArray[np.int64]:
        """Tokens (Q,) of the recent histories and of the long one in a prompt."""
        queries = self.queries if self.ranker.model.config.shopper else without_shopper(self.queries)
        return self.ranker.prompts.build(queries, history=setting.history).lengths().numpy()


def choose(baseline: Point, points: list[Point], config: PruningConfig, given_up: float | None = None) -> Point | None:
    """The cheapest setting within the budget, or None if only reading every token is.

    What early opening gains is not for sale: no other setting within the budget may find more than `given_up` more, by
    default the budget, at 10 or at 50 items, without finding as much less at the other. And of settings that cost the
    same (`SAME_COST`) the one with the widest margin is taken: searches may be harder tomorrow, and beams that are
    given up do not come back.
    """
    allowed = [
        p
        for p in points
        if baseline.hr10 - p.hr10 <= config.max_loss
        and baseline.hr50 - p.hr50 <= config.max_loss
        and p.worst_department_loss <= config.max_department_loss
        and p.cost < baseline.cost
    ]
    given_up = config.max_loss if given_up is None else given_up
    unbeaten = [p for p in allowed if not any(_beats(rival, p, given_up) for rival in allowed)]
    if not unbeaten:
        return None
    most = min(p.cost for p in unbeaten) + SAME_COST * baseline.mflops
    return min((p for p in unbeaten if p.cost <= most), key=lambda p: (-(p.setting.margin or math.inf), p.cost, p.name))


def _beats(rival: Point, point: Point, budget: float) -> bool:
    gains = (rival.hr10 - point.hr10, rival.hr50 - point.hr50)
    return max(gains) > budget and min(gains) >= -budget


def beats_controls(point: Point, controls: list[Point]) -> bool:
    """Whether no control is as good with the same mean number of image tokens, patches or looks.

    Random ones and the centre do not look at the attention; the top ones do, but are as many for every picture.
    """
    return not any(c.hr10 >= point.hr10 and c.hr50 >= point.hr50 for c in controls)


def _milliseconds(answers: Sequence[Callable[[int], object]], turns: int) -> list[list[float]]:
    """What each turn of each took, one beside the other, so that what else the machine does hits both; the first is
    taken once before."""
    taken: list[list[float]] = [[] for _ in answers]
    for turn in (0, *range(turns)):
        for answer, times in zip(answers, taken, strict=True):
            start = time.perf_counter()
            answer(turn)
            times.append(1000 * (time.perf_counter() - start))
    return [times[1:] for times in taken]
