"""The table of stages holds together: sections exist, inputs come from earlier stages, functions take what it says."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import onevision
from onevision.recipe import Recipe
from onevision.runs import LINKS
from onevision.stages import ALL_STAGES as ALL
from onevision.stages import NIGHT_STAGES, SHARD_STAGES, STAGES, Stage

ROOT = Path(onevision.__file__).parent


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_every_stage_has_a_section_of_the_recipe(stage: Stage) -> None:
    assert stage.section in Recipe.model_fields


def test_every_input_is_made_by_an_earlier_stage() -> None:
    made = {"snapshot"}
    for stage in (STAGES | SHARD_STAGES).values():
        assert {*stage.inputs.values(), *stage.collected.values()} <= made, stage.name
        made.add(stage.output)


def test_an_optional_input_is_made_by_some_stage_of_an_earlier_run() -> None:
    made = {stage.output for stage in ALL.values()}
    for stage in ALL.values():
        assert set(stage.optional.values()) <= made, stage.name


def test_only_what_reads_or_moves_the_champion_is_never_reused() -> None:
    assert {name for name, stage in ALL.items() if not stage.pure} == {"publish", *NIGHT_STAGES}


def test_a_run_folder_names_every_stage_once() -> None:
    assert list(LINKS) == ["snapshot", *STAGES]
    assert len(set(LINKS.values())) == len(LINKS)


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_stage_functions_take_what_the_table_says(stage: Stage) -> None:
    module, _, function = stage.function.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert set(parameters) == {
        *stage.inputs,
        *stage.collected,
        *stage.optional,
        *stage.parameters,
        "out",
        "config",
        "seed",
    }
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())


def test_the_library_knows_no_kfp_and_no_pipeline() -> None:
    forbidden = ("import kfp", "from kfp", "import components", "from components", "import pipelines", "from pipelines")
    for source in ROOT.rglob("*.py"):
        lines = [line.strip() for line in source.read_text().splitlines()]
        assert not [line for line in lines if line.startswith(forbidden)], source
