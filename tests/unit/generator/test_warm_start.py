"""Warm start: goes on from its parent, mostly on the day, and never ends below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.generators import make_catalogue, make_generator, make_queries
from support.models import make_models
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onevision.artifacts import open_artifact, read_json
from onevision.errors import ArtifactError
from onevision.features.queries import QuerySet
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.modelling import Generator
from onevision.generator.prompts import PromptBuilder
from onevision.generator.samples import query_samples
from onevision.generator.stage import EVENTS, run
from onevision.generator.warm_start import mostly, of_the_day, open_parent, warm_config

CATALOGUE, QUANTIZER = make_catalogue()
CONFIG = GeneratorTrainingConfig(batch_size=8, warm_steps=3, check_every=2)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_day_is_drawn_as_often_as_wanted_and_nothing_is_dropped(share: float) -> None:
    queries = make_queries(CATALOGUE, 60)
    samples = query_samples(queries, PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE), CATALOGUE, CONFIG)
    day = samples.row >= 55
    mixed = mostly(samples, day, share)
    assert set(zip(mixed.row, mixed.item, strict=True)) == set(zip(samples.row, samples.item, strict=True))
    assert (mixed.row >= 55).mean() == pytest.approx(share, abs=0.08)
    assert (mixed.row < 55).sum() == (~day).sum()


def test_a_day_that_is_there_often_enough_or_not_at_all_changes_nothing() -> None:
    queries = make_queries(CATALOGUE, 6)
    samples = query_samples(queries, PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE), CATALOGUE, CONFIG)
    for day in (np.ones(len(samples), bool), np.zeros(len(samples), bool)):
        assert mostly(samples, day, 0.5) is samples


@pytest.mark.parametrize(("new", "steps"), [(0, 1), (60, 12), (96, 20), (10_000, 50)])
def test_a_refresh_takes_as_many_steps_as_its_day_needs(new: int, steps: int) -> None:
    # 20 clicks a step, 10 of them of the day
    base = GeneratorTrainingConfig(batch_size=100, replay_share=0.8, warm_day_share=0.5, warm_steps=50, warm_passes=2)
    config = warm_config(base, new)
    assert (config.steps_visual, config.steps_cooccurrence, config.steps_personal) == (0, 0, steps)
    assert config.learning_rate == base.warm_learning_rate


def test_a_parent_of_other_codebooks_or_other_pictures_is_refused(tmp_path: Path) -> None:
    make_generator(QUANTIZER).save_pretrained(tmp_path)
    queries = make_queries(CATALOGUE, 3)
    assert open_parent(tmp_path, "test", queries).config.generation == "test"
    with pytest.raises(ArtifactError, match="codes of generation test, the codebooks are of other"):
        open_parent(tmp_path, "other", queries)
    queries.tokens = queries.tokens[:, :, :5]
    with pytest.raises(ArtifactError, match="tokens of shape"):
        open_parent(tmp_path, "test", queries)


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def inputs(models: dict[str, Path]) -> dict[str, Path]:
    names = ("snapshot", "pairs", "encoder", "quantizer", "semantic_ids", "features")
    return {name: models[name] for name in names}


def test_the_day_is_the_newest_of_the_training_searches(inputs: dict[str, Path]) -> None:
    train = QuerySet.load(inputs["pairs"], inputs["encoder"], inputs["features"], split="train")
    day = of_the_day(inputs["pairs"], train, 1.0)
    assert 0 < day.sum() < len(day)
    assert (np.diff(day.astype(int)) >= 0).all()  # queries come by time
    assert of_the_day(inputs["pairs"], train, 1000.0).all()


def test_the_artifact_holds_the_curves_for_tensorboard(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = GeneratorTrainingConfig(
        d_model=16, feedforward=16, batch_size=8, check_every=1, choice_epochs=1, guidance=(0.0,),
        steps_visual=2, steps_cooccurrence=1, steps_personal=1,
    )  # fmt: skip
    run(**inputs, out=tmp_path / "sft", config=config, seed=1)
    history = read_json(tmp_path / "sft" / "history.json")
    assert EVENTS in read_json(tmp_path / "sft" / "manifest.json")["files"]
    events = EventAccumulator(str(tmp_path / "sft")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "validation_found"}
    assert [event.step for event in events.Scalars("loss")] == history["steps"]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history["loss"])
    found = [event.value for event in events.Scalars("validation_found")]
    assert found == pytest.approx(list(history["checks"].values()))


def test_a_refresh_keeps_the_parents_weights_unless_validation_days_prefer_others(
    inputs: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    parent = models["generator_sft"]
    report = run(**inputs, out=tmp_path / "warm", config=CONFIG, seed=1, parent=parent)
    assert open_artifact(tmp_path / "warm").parents["parent"] == open_artifact(parent).identity
    checks = {row[0]: row[1] for row in report.tables[0].rows}
    kept = next(row[0] for row in report.tables[0].rows if row[2] == "kept")
    assert next(iter(checks)) == "parent"
    assert checks[kept] == max(checks.values())
    before, after = (Generator.from_pretrained(path).state_dict() for path in (parent, tmp_path / "warm"))
    same = all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)
    assert same == (kept == "parent")
