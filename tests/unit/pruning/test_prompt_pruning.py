"""Tokens of the prompt by attention mass: what is swept and counted, what it must beat, and that it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.generators import TOKENS, make_catalogue, make_generator, make_queries
from support.models import make_models
from support.pruning import BEAM_WIDTH, make_bundle
from support.pruning import EASY as EASY_SWEEP

from onevision.artifacts import read_json
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker, read_setting
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.errors import RecipeError
from onevision.features.definitions import UserSequences
from onevision.features.queries import QuerySet
from onevision.generator.prompts import LONG_TOKENS
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning import stage
from onevision.pruning.calibration import Sweep
from onevision.pruning.canary import HISTORY_TOKENS, LAST_CONTEXT, Seen
from onevision.pruning.config import PruningConfig
from onevision.pruning.controls import newest_k, prompt_controls, random_k
from onevision.pruning.cost import FRONT_TOKENS, query_flops
from onevision.pruning.nearby import Nearby
from onevision.pruning.photos import PhotoEncoder, Photos
from onevision.pruning.point import Point, TowerCost
from onevision.pruning.strategies import MASS_STRATEGIES, PROMPT_STRATEGIES
from onevision.recipe import load_recipe
from onevision.serving.search import Searcher

CATALOGUE, QUANTIZER = make_catalogue()
QUERIES = make_queries(CATALOGUE, 30)
MASSES: dict[str, Any] = {"history_masses": (0.5,), "shared_masses": (0.5,), "decoder_masses": (0.5,)}
SETTINGS = {
    "history mass": PruningSetting(prunable="history", mass=0.5),
    "shared mass": PruningSetting(prunable="both", mass=0.5),
    "decoder mass": PruningSetting(decoder_mass=0.5),
}


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    ranker = GeneratorRanker(make_generator(QUANTIZER).freeze(), CATALOGUE)
    encoder = Encoder(EncoderConfig(width=8, image_size=32), ["bags"])
    photos = Photos(PhotoEncoder(encoder, Nearby(CATALOGUE, QUANTIZER)), images=None)  # type: ignore[arg-type]
    answer = [[CATALOGUE.numbers()[clicked[0]]] for clicked in QUERIES.clicked]
    return Sweep(ranker, QUERIES, photos, answer, np.array(["d"] * len(QUERIES), dtype=object))


@pytest.mark.parametrize("option", MASSES)
@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2"])
def test_a_mass_is_between_nothing_and_all(option: str, share: str) -> None:
    with pytest.raises(RecipeError, match=option):
        load_recipe("quickstart", [f"pruning.{option}=[{share}]"])


@pytest.mark.parametrize("wrong", [{"prunable": "front"}, {"decoder_mass": 0}, {"decoder_mass": 1.1}])
def test_a_stored_setting_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PruningSetting.model_validate(wrong)


def test_a_setting_from_before_prunes_image_tokens_at_once() -> None:
    assert PruningSetting.model_validate({"mass": 0.5}) == PruningSetting(prunable="image", mass=0.5, decoder_mass=1.0)


def test_each_is_tried_beside_the_others_and_none_by_default() -> None:
    base = PruningSetting(open_below=200)
    settings = {
        family: strategy(PruningConfig(**MASSES, min_tokens=3), base) for family, strategy in PROMPT_STRATEGIES.items()
    }
    for family, expected in SETTINGS.items():
        (name, setting) = settings[family][0]
        assert name == f"{family} 0.5"
        assert setting == expected.model_copy(update={"open_below": 200, "min_tokens": 3})
        assert not MASS_STRATEGIES[family](PruningConfig(), base)


@pytest.mark.parametrize("family", SETTINGS)
def test_flops_are_those_of_the_tokens_that_are_read(sweep: Sweep, family: str) -> None:
    setting, config = SETTINGS[family], sweep.ranker.model.config
    point = sweep.measure(family, family, setting)
    ranking = sweep.ranker.rank(QUERIES, 100, 50)
    there = sweep.histories(setting)
    merged = (ranking.kept_tokens < TOKENS) | (ranking.history_tokens < there)
    expected = FRONT_TOKENS + ranking.kept_tokens + ranking.history_tokens + merged
    assert ranking.context_tokens.tolist() == expected.tolist()
    later, spared = ranking.last_context, 0
    if setting.decoder_mass < 1:
        spared = sum(int((c - n) * (s - 1)) for c, n, s in zip(expected, later, ranking.steps, strict=True))
        assert spared > 0
        assert point.spared_mean == pytest.approx((expected - later).mean())
        assert point.kept_mean == TOKENS
    else:
        assert later.tolist() == expected.tolist()
        assert point.history_mean < there.mean()
        assert (point.kept_mean < TOKENS) is (family == "shared mass")
    flops = query_flops(
        config,
        ranking.kept_tokens.mean(),
        there.mean(),
        ranking.steps.mean(),
        ranking.history_tokens.mean(),
        spared / len(QUERIES),
    )
    assert point.mflops == pytest.approx(flops / 1e6)
    whole = query_flops(config, TOKENS, there.mean(), ranking.steps.mean())
    d = config.d_model
    if setting.decoder_mass < 1:
        assert whole - flops == pytest.approx(2 * config.decoder_layers * 2 * d * spared / len(QUERIES))
    else:
        dropped = TOKENS + there.mean() - point.kept_mean - point.history_mean - 1
        codes = ranking.steps.mean() * dropped * 2 * d * config.decoder_layers
        context = dropped * 2 * d * d * config.decoder_layers
        assert whole - flops > 2 * (codes + context)


@pytest.mark.parametrize("family", SETTINGS)
def test_controls_are_as_many_tokens(sweep: Sweep, family: str) -> None:
    point = sweep.measure(family, family, SETTINGS[family])
    controls = prompt_controls(sweep, point, PruningSetting(), seed=0)
    assert len(controls) == 3
    assert {control.family for control in controls} == {"control"}
    for control in controls:
        assert control.setting.decoder_mass == control.setting.mass == 1
        if family == "decoder mass":
            assert control.spared_mean == pytest.approx(point.spared_mean, abs=0.5)
            continue
        size = point.history_mean + point.kept_mean
        assert control.history_mean + control.kept_mean == pytest.approx(size, abs=1)
        assert control.setting.prunable == point.setting.prunable
    names = [control.name for control in controls]
    assert all(name.startswith(kind) for name, kind in zip(names[:2], ("top", "random"), strict=True))
    assert len({(control.hr10, control.hr50, control.mflops) for control in (point, *controls)}) > 1


def test_random_tokens_are_no_padding() -> None:
    mass = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0], [1.0, 0, 0, 0, 0, 0]])
    rule = random_k(3, 0)
    for _ in range(20):
        keep = rule(mass)
        assert keep[0].sum() == 3
        assert not keep[0, 4:].any()
        assert keep[1, 0]
    there = torch.tensor([[0.1, 0.2, 0.0, 0.3, 0.4], [0.0, 0.0, 0.0, 0.5, 0.5]])
    assert newest_k(3)(there).int().tolist() == [[1, 1, 0, 1, 0], [0, 0, 0, 1, 1]]


class Measured:
    """Stands for a sweep: what a family of settings finds and costs is given; nobody else loses."""

    def __init__(self, costs: dict[str, float], overruled: set[str]) -> None:
        self.costs, self.overruled = costs, overruled

    def measure(self, name: str, family: str, setting: PruningSetting) -> Point:
        cost = self.costs.get(family, 100.0)
        return Point(name, family, setting, 0.6, 0.8, 0.0, 16, 16, 300, cost, TowerCost(70.0, 2.0))

    def controls(self, sweep: Any, point: Point, base: PruningSetting, seed: int) -> list[Point]:
        hit = 0.6 if point.family in self.overruled else 0.1
        name = f"control of {point.name}"
        return [Point(name, "control", base, hit, 0.8, 0.0, 16, 16, 300, 1.0, TowerCost(70.0, 2.0))]


@pytest.mark.parametrize(
    ("overruled", "chosen"),
    [
        (set(), "shared mass 0.5"),
        ({"shared mass"}, "decoder mass 0.5"),
        ({"shared mass", "decoder mass"}, "history 3"),
    ],
)
def test_the_cheapest_family_that_beats_its_controls_is_taken(
    monkeypatch: pytest.MonkeyPatch, overruled: set[str], chosen: str
) -> None:
    costs = {"shared mass": 50, "decoder mass": 60, "history tokens": 70, "history mass": 80, "attention mass": 90}
    sweep = Measured(costs, overruled)
    monkeypatch.setattr(stage, "prompt_controls", sweep.controls)
    config = PruningConfig(open_below=(), margins=(), **MASSES)
    baseline = sweep.measure("everything", "none", PruningSetting())
    found = stage._swept(sweep, baseline, config, seed=0)  # type: ignore[arg-type]
    assert found.chosen is not None
    assert found.chosen.name == chosen
    assert len(found.warnings) == len(overruled)
    beside = {control.name.removeprefix("control of ") for control in found.controls}
    assert beside == {"mass 0.7", "history mass 0.5", "shared mass 0.5", "decoder mass 0.5"}


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"), encoder_layers=2)


@pytest.mark.parametrize("family", SETTINGS)
def test_what_is_calibrated_is_stored_with_its_canary_and_its_controls(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(stage, "beats_controls", lambda point, controls: point.family == family)
    names = ("snapshot", "pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_aligned"]}
    only = {name: masses for name, masses in MASSES.items() if family.split()[0] in name}
    config = EASY_SWEEP.model_copy(update={"open_below": (), "margins": (), "history": (), **only})
    report = stage.run(**inputs, out=tmp_path, config=config, seed=1)
    points = {point["name"]: point for point in read_json(tmp_path / "pareto.json")}
    mine = points[f"{family} 0.5"]
    assert mine["mflops"] < points["everything"]["mflops"]
    assert sum("after the first code" in name for name in points) == 3 * (family == "decoder mass")
    assert sum("of both" in name or "and newest" in name for name in points) == 3 * (family == "shared mass")
    assert sum("of the histories" in name for name in points) == 3 * (family == "history mass")
    assert any(family in figure.content for figure in report.figures), "on the picture"

    setting, seen = read_setting(tmp_path / "pruning.json"), Seen.read(tmp_path / "pruning.json")
    assert setting is not None
    assert setting.model_dump() == mine["setting"] == SETTINGS[family].model_dump()
    assert seen is not None
    assert (HISTORY_TOKENS in seen.bounds) is (family != "decoder mass")
    assert (LAST_CONTEXT in seen.bounds) is (family == "decoder mass")
    if family == "decoder mass":
        low, high = seen.bounds[LAST_CONTEXT]
        read = FRONT_TOKENS + 16 + mine["history_mean"] - mine["spared_mean"]
    else:
        low, high = seen.bounds[HISTORY_TOKENS]
        read = mine["history_mean"]
    assert low <= read <= high
    assert high < FRONT_TOKENS + 16 + mine["history_mean"]


@pytest.fixture(scope="module")
def bundle(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that prunes image and histories by one mass, and image tokens once more after the first code."""
    setting = PruningSetting(prunable="both", mass=0.5, decoder_mass=0.5)
    return make_bundle(models, setting, tmp_path_factory.mktemp("bundle"))[0]


@pytest.mark.parametrize("alike", [True, False])
def test_a_server_prunes_as_it_was_calibrated_and_in_full_once_the_canary_is_off(
    models: dict[str, Path], bundle: Path, tiny_snapshot: Path, caplog: pytest.LogCaptureFixture, alike: bool
) -> None:
    loaded, shop = Searcher.open(bundle), Snapshot.open(tiny_snapshot)
    bounds = {HISTORY_TOKENS: (0, 1e9), LAST_CONTEXT: (0, 1e9) if alike else (1e8, 1e9)}
    searcher = Searcher(loaded.bundle, loaded._photos.encoder, loaded._ranker, None, seen=Seen(bounds, BEAM_WIDTH))
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    pixels = np.stack([searcher.decode(shop.images.read(image)) for image in queries.image_id[:10]])
    known = UserSequences(recent_clicked=["i001", "i002", "i003"], long_history=["i004"])
    counted = []
    rank = searcher._ranker.rank
    searcher._ranker.rank = lambda *args, **options: counted.append(rank(*args, **options)) or counted[-1]  # type: ignore[func-returns-value,method-assign]
    for _ in range(7):
        searcher.rank(pixels, [known] * len(pixels), 3)
    first, last = counted[0], counted[-1]
    assert (first.last_context < first.context_tokens).all()
    assert (first.kept_tokens < 16).all()
    assert (first.history_tokens < 3 + LONG_TOKENS).all()
    assert ((last.context_tokens == first.context_tokens).all()) == alike
    assert (searcher._ranker.setting == PruningSetting()) is not alike
    assert ("tokens that the last code attends to" in caplog.text) is not alike
