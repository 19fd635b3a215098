"""What the sweep counts, and what it does where a control is as good as attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.generators import make_catalogue, make_generator, make_queries, thumbnails

from onevision.attention_mass import KeepRule
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel
from onevision.generator.choice_items import item_table
from onevision.generator.prompts import LONG_TOKENS
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning import stage
from onevision.pruning.calibration import Sweep
from onevision.pruning.config import PruningConfig
from onevision.pruning.cost import query_flops
from onevision.pruning.nearby import Nearby
from onevision.pruning.photos import PhotoEncoder, Photos
from onevision.pruning.point import Point, TowerCost

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE, 30)


def make_sweep(choice: ChoiceModel | None = None, **changes: object) -> Sweep:
    ranker = GeneratorRanker(make_generator(QUANTIZER, **changes), CATALOGUE, choice)
    encoder = Encoder(EncoderConfig(width=8, image_size=32), ["bags"])
    photos = Photos(PhotoEncoder(encoder, Nearby(CATALOGUE, QUANTIZER)), images=None)  # type: ignore[arg-type]
    answer = [[CATALOGUE.numbers()[clicked[0]]] for clicked in QUERIES.clicked]
    return Sweep(ranker, QUERIES, photos, answer, np.array(["d"] * 30, dtype=object))


def tokens_of(queries: QuerySet, longest: int) -> float:
    recent = (queries.recent_clicked, queries.recent_searched, queries.recent_ordered)
    short = sum(min(len(items), longest) for lists in recent for items in lists)
    return (short + LONG_TOKENS * sum(map(bool, queries.long_history))) / len(queries)


@pytest.mark.parametrize(("setting", "longest"), [(PruningSetting(), 4), (PruningSetting(history=1), 1)])
def test_flops_are_those_of_the_prompt_and_the_beams(setting: PruningSetting, longest: int) -> None:
    sweep = make_sweep()
    point = sweep.measure("x", "none", setting)
    expected = query_flops(sweep.ranker.model.config, 9, tokens_of(QUERIES, longest), point.steps_mean)
    assert point.mflops == pytest.approx(expected / 1e6)


def test_a_generator_that_knows_no_shopper_reads_no_history() -> None:
    sweep = make_sweep(shopper=False)
    point = sweep.measure("x", "none", PruningSetting())
    assert point.mflops == pytest.approx(query_flops(sweep.ranker.model.config, 9, 0, point.steps_mean) / 1e6)


def test_the_choice_costs_what_it_scores() -> None:
    items = item_table(CATALOGUE, QUERIES, np.zeros(len(CATALOGUE.item_ids), np.int64), thumbnails(CATALOGUE))
    choice = ChoiceModel(items, ["new", "old"], 4, 6).attach(CATALOGUE).eval().requires_grad_(False)
    sweep = make_sweep(choice)
    point = sweep.measure("x", "none", PruningSetting(open_below=1000))
    leaves = CATALOGUE.trie.leaves  # of so small a shop all are opened at once
    searched = query_flops(sweep.ranker.model.config, 9, tokens_of(QUERIES, 4), point.steps_mean)
    assert point.mflops == pytest.approx((searched + choice.flops(leaves)) / 1e6)


def test_a_short_history_is_what_the_prompt_holds() -> None:
    ranker = make_sweep().ranker
    whole = ranker.rank(QUERIES, 8, 5)
    ranker.use_pruning(PruningSetting(history=1))
    short = ranker.rank(QUERIES, 8, 5)
    ranker.use_pruning(PruningSetting())
    names = ("recent_clicked", "recent_searched", "recent_ordered")
    cut = replace(QUERIES, **{name: [items[:1] for items in getattr(QUERIES, name)] for name in names})
    np.testing.assert_allclose(short.scores, ranker.rank(cut, 8, 5).scores, rtol=1e-5)
    assert not np.allclose(short.scores, whole.scores)


class Measured:
    """Stands for a sweep: fewer tokens cost less, and nobody loses but the controls that `worse` says."""

    def __init__(self, worse: bool) -> None:
        self.worse = worse

    def measure(self, name: str, family: str, setting: PruningSetting, keep: KeepRule | None = None) -> Point:
        hit = 0.6 - 0.1 * (self.worse and family == "control")
        cost = 50 + 50 * setting.mass - 10 * (setting.history is not None)
        return Point(name, family, setting, hit, hit, 0.0, 16 * setting.mass, 16, 300, cost, TowerCost(70.0, 2.0))


@pytest.mark.parametrize("worse", [True, False])
def test_a_control_that_is_as_good_overrules_attention(worse: bool) -> None:
    sweep = Measured(worse)
    config = PruningConfig(masses=(0.5,), history=(3,))
    baseline = sweep.measure("everything", "none", PruningSetting())
    found = stage._swept(sweep, baseline, config, seed=0)  # type: ignore[arg-type]
    assert [point.name for point in found.controls] == ["top-8", "random-8", "centre-8"]
    assert found.chosen is not None
    assert found.chosen.setting.mass == (0.5 if worse else 1.0)
    assert (found.chosen.name == "history 3") is not worse
    assert any("mass 0.5 is no better than a control" in warning for warning in found.warnings) is not worse
