from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import make_models

from onevision.artifacts import finish_artifact, open_artifact, read_json, start_artifact, write_json
from onevision.features.queries import QuerySet
from onevision.generator.configuration import GeneratorConfig
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.calibration import beats_controls, choose
from onevision.pruning.canary import Canary, Seen
from onevision.pruning.config import PruningConfig
from onevision.pruning.controls import centre_crop, random_k, top_k
from onevision.pruning.cost import query_flops
from onevision.pruning.point import Point, TowerCost
from onevision.pruning.stage import run
from onevision.pruning.strategies import BEAM_STRATEGIES, PROMPT_STRATEGIES

TOWER = TowerCost(70.0, 2.0)
BASE = Point("all", "none", PruningSetting(), 0.6, 0.8, 0.0, 16, 16, 300, 100.0, TOWER)


def point(name: str, hr10: float = 0.6, hr50: float = 0.8, department: float = 0.0, mflops: float = 50.0) -> Point:
    return Point(name, "attention mass", PruningSetting(mass=0.5), hr10, hr50, department, 8, 9, 300, mflops, TOWER)


def test_the_cheapest_setting_within_the_budget_is_chosen() -> None:
    points = [point("a", mflops=60), point("b", mflops=50), point("c", hr10=0.59, mflops=40)]
    chosen = choose(BASE, points, PruningConfig())
    assert chosen is not None
    assert chosen.name == "b"


@pytest.mark.parametrize("bad", [{"hr10": 0.596}, {"hr50": 0.796}, {"department": 0.03}, {"mflops": 120.0}])
def test_a_setting_that_loses_too_much_anywhere_is_not_chosen(bad: dict[str, float]) -> None:
    assert choose(BASE, [point("x", **bad)], PruningConfig()) is None


def test_what_a_setting_gains_is_not_given_away_by_a_cheaper_one() -> None:
    points = [point("opened", hr10=0.61, mflops=40), point("cheaper", hr10=0.605, mflops=10), point("like", hr10=0.608)]
    chosen = choose(BASE, points, PruningConfig())
    assert chosen is not None
    assert chosen.name == "opened"
    sides = [point("ten", hr10=0.61, hr50=0.8), point("fifty", hr10=0.6, hr50=0.81, mflops=40)]
    assert choose(BASE, sides, PruningConfig()) is sides[1], "neither gives the other's gain away"
    far = point("lossy", hr10=0.58, hr50=0.9, mflops=30)
    assert choose(BASE, [*sides, far], PruningConfig()) is sides[1], "no rival, since it breaks the budget"


def test_of_settings_that_cost_the_same_the_one_that_gives_up_least_is_chosen() -> None:
    def beams(margin: float | None, mflops: float) -> Point:
        setting = PruningSetting(open_below=200, margin=margin)
        return Point(f"margin {margin}", "beams", setting, 0.6, 0.8, 0.0, 16, 16, 1, mflops, TOWER)

    near, wide, none = beams(6.0, 50.0), beams(10.0, 50.5), beams(None, 50.9)
    assert choose(BASE, [near, wide, none], PruningConfig()) is none
    assert choose(BASE, [near, wide, beams(None, 51.1)], PruningConfig()) is wide


def test_controls_keep_the_number_they_are_given() -> None:
    mass = torch.rand(5, 16, generator=torch.Generator().manual_seed(0))
    for rule in (top_k(6), random_k(6, 0), centre_crop(6)):
        assert rule(mass).sum(1).tolist() == [6] * 5
    assert centre_crop(4)(mass)[0].view(4, 4)[1:3, 1:3].all()
    best = top_k(1)(mass).float().argmax(1)
    assert torch.equal(best, mass.argmax(1))
    assert torch.equal(random_k(6, 1)(mass), random_k(6, 1)(mass))


def test_fewer_tokens_cost_less_and_the_first_layer_is_always_paid() -> None:
    config = GeneratorConfig(d_model=16, feedforward=32, image_tokens=16, token_dim=8)
    costs = [query_flops(config, kept, 10, 25) for kept in (2, 8, 13, 16, 15)]
    assert costs == sorted(costs), "15 and a merged one are 16, and which one goes had to be found out"
    assert query_flops(config, 16, 10, 12) < query_flops(config, 16, 10, 25)
    assert costs[0] > 2 * 31 * (4 * 16 * 16 + 2 * 16 * 32)


def test_attention_must_be_better_than_every_control_somewhere() -> None:
    attention = point("a", hr10=0.6, hr50=0.8)
    assert beats_controls(attention, [point("c", hr10=0.59, hr50=0.9), point("d", hr10=0.7, hr50=0.79)])
    assert not beats_controls(attention, [point("c", hr10=0.5), point("d", hr10=0.6, hr50=0.8)])


def test_strategies_build_on_the_setting_that_they_are_given() -> None:
    config, base = PruningConfig(), PruningSetting(open_below=200, margin=3.0)
    for strategy in PROMPT_STRATEGIES.values():
        for _, setting in strategy(config, base):
            assert (setting.open_below, setting.margin) == (200, 3.0)
            assert setting != base
    both = [setting for _, setting in BEAM_STRATEGIES["margin and opening"](config, PruningSetting())]
    assert {(s.open_below, s.margin) for s in both} == {(n, m) for n in config.open_below for m in config.margins}


SEEN = Seen.measure({"steps": np.random.default_rng(0).integers(50, 150, 1000)}, 100, seed=0)


def watch(canary: Canary, values: np.ndarray, size: int = 16) -> list[str | None]:
    return [canary.watch({"steps": values[n : n + size]}) for n in range(0, len(values), size)]


def test_the_canary_is_silent_about_searches_like_those_of_calibration() -> None:
    for seed in range(20):
        said = watch(Canary(SEEN), np.random.default_rng(seed).integers(50, 150, 64))
        assert said == [None] * 4


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_canary_says_once_what_is_unlike_calibration(factor: float) -> None:
    canary = Canary(SEEN)
    said = watch(canary, factor * np.random.default_rng(1).integers(50, 150, 96))
    assert said[:3] == [None] * 3
    assert said[3] is not None
    assert "when it was calibrated" in said[3]
    assert said[4:] == [None] * 2
    assert not canary.watching


def test_what_calibration_saw_survives_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "pruning.json", {"chosen": {}, "canary": SEEN.as_dict()})
    assert Seen.read(tmp_path / "pruning.json") == SEEN
    write_json(tmp_path / "pruning.json", {"chosen": None, "canary": None})
    assert Seen.read(tmp_path / "pruning.json") is None


def test_a_refresh_keeps_its_parents_setting_within_the_budget_and_sweeps_otherwise(
    tiny_snapshot: Path, tmp_path: Path
) -> None:
    models = make_models(tiny_snapshot, tmp_path)
    names = ("snapshot", "pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_aligned"]}
    easy = PruningConfig(max_loss=1, max_department_loss=1, masses=(0.5, 0.7), open_below=(2,), timed_queries=5)

    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="validation")
    calibrated = {
        "split": "validation",
        "queries": len(queries),
        "generator": open_artifact(inputs["generator"]).identity,
    }

    def settings(parent: dict[str, object] | None) -> tuple[list[str], object]:
        start_artifact(tmp_path / "parent")
        write_json(tmp_path / "parent" / "pruning.json", {"chosen": parent})
        held = finish_artifact(
            tmp_path / "parent", "pruning", parents={"generator": open_artifact(inputs["generator"])}
        )
        run(**inputs, out=tmp_path / "out", config=easy, seed=1, parent=held.path)
        measured = [point["name"] for point in read_json(tmp_path / "out" / "pareto.json")]
        written = read_json(tmp_path / "out" / "pruning.json")
        assert written["calibrated_on"] == calibrated
        return measured, written["chosen"]

    measured, chosen = settings({"open_below": 1000})
    assert measured == ["everything", "the parent's"]
    assert chosen == PruningSetting(open_below=1000).model_dump()
    for nothing in (None, {"mass": 1.0}):  # its parent prunes nothing, or nothing that costs less
        measured, _ = settings(nothing)
        assert {"open below 2", "mass 0.5", "mass 0.7"} < {*measured}
        assert ("the parent's" in measured) is (nothing is not None)
        assert not [name for name in measured if "patches" in name]  # a convolutional tower has none to leave out
