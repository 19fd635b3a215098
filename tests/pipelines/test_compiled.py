"""The pipeline and its components: compiled as committed, by data flow, with every stage's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.readme import components, with_interface
from onevision.stages import ALL_STAGES, NIGHT_STAGES, STAGES
from pipelines.compile import COMPILED, PIPELINES, compile_pipelines
from pipelines.settings import SETTINGS

ROOT = COMPILED.parents[1]
COMPILED_FILE = COMPILED / "full_training.yaml"
PARAMETERS = {"snapshot", "snapshot_id", "run_date", "recipe", "overrides", "bundle_store"}
FIRST, CLOSING = "prerequisites", "close-night"
MACHINES = "align-on-machines"
BESIDES = {FIRST, CLOSING, MACHINES}
"""Tasks that are no stages."""


def first_document(file: Path) -> dict:
    """The pipeline; what only Kubernetes reads is a second document."""
    return next(yaml.safe_load_all(file.read_text()))


@pytest.fixture(scope="module")
def spec() -> dict:
    return first_document(COMPILED_FILE)


@pytest.fixture(scope="module")
def night() -> dict:
    spec = first_document(COMPILED / "nightly_refresh.yaml")
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    return spec


def dag_of(spec: dict, name: str) -> dict:
    """Tasks of the group that a task of that display name runs."""
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = {task["taskInfo"]["name"]: task for dag in dags for task in dag["tasks"].values()}
    return spec["components"][tasks[name]["componentRef"]["name"]]["dag"]["tasks"]


def test_the_committed_pipeline_is_what_the_sources_compile_to(tmp_path: Path) -> None:
    if os.environ.get("ONEVISION_IMAGE"):
        pytest.skip("ONEVISION_IMAGE names another image than the committed file")
    for file in compile_pipelines(tmp_path):
        assert file.read_bytes() == (COMPILED / file.name).read_bytes(), "run `make compile` and commit the result"


@pytest.mark.parametrize("name", PIPELINES)
def test_what_runs_on_one_machine_is_the_package_that_is_committed(name: str) -> None:
    if os.environ.get("ONEVISION_IMAGE"):
        pytest.skip("ONEVISION_IMAGE names another image than the committed file")
    committed = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text()))
    assert json_format.MessageToDict(PIPELINES[name].pipeline_spec) == committed


def test_compiling_loads_nothing_heavy_and_takes_the_image_from_the_environment(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pipelines.compile import compile_pipelines\n"
        "compile_pipelines(pathlib.Path(sys.argv[1]))\n"
        "print([name for name in ('torch', 'feast', 'pyarrow', 'transformers') if name in sys.modules])"
    )
    environment = os.environ | {"ONEVISION_IMAGE": "registry.example/onevision@sha256:0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    executors = first_document(tmp_path / "full_training.yaml")["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {"registry.example/onevision@sha256:0"}


def test_the_default_image_is_the_one_that_make_images_builds(spec: dict) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert "-t localhost/onevision-$$target:$(VERSION)" in (ROOT / "Makefile").read_text()
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"localhost/onevision-train:{version}"}


def test_the_compiled_file_is_a_valid_pipeline(spec: dict) -> None:
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert set(parsed.root.input_definitions.parameters) == PARAMETERS


def test_there_is_a_task_a_stage_fed_by_the_stages_that_make_its_inputs(spec: dict) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {FIRST, *STAGES}
    for name, stage in STAGES.items():
        artifacts = tasks[name].get("inputs", {}).get("artifacts", {})
        for key, source in artifacts.items():
            producer = source["taskOutputArtifact"]["producerTask"]
            assert STAGES[producer].output == stage.inputs[key], f"{name}.{key} comes from {producer}"
        assert set(artifacts) == set(stage.inputs) - ({"snapshot"} if name == "validate" else set())


def test_two_generators_are_not_mixed_up(spec: dict) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    for name in ("evaluate", "publish"):
        artifacts = tasks[name]["inputs"]["artifacts"]
        assert artifacts["generator_sft"]["taskOutputArtifact"]["producerTask"] == "sft"
        assert artifacts["generator_aligned"]["taskOutputArtifact"]["producerTask"] == "align-preferences"
    pruned = tasks["calibrate-pruning"]["inputs"]["artifacts"]["generator"]
    assert pruned["taskOutputArtifact"]["producerTask"] == "align-preferences"


def test_the_run_date_reaches_the_first_task(spec: dict) -> None:
    parameters = spec["root"]["dag"]["tasks"]["validate"]["inputs"]["parameters"]
    assert {"snapshot", "snapshot_id", "run_date"} <= set(parameters)


def test_every_task_has_the_settings_of_its_stage(spec: dict) -> None:
    assert set(SETTINGS) == ALL_STAGES.keys() | BESIDES
    for name, settings in ((name, SETTINGS[name]) for name in STAGES):
        task = spec["root"]["dag"]["tasks"][name]
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        assert task["cachingOptions"].get("enableCache", False) is settings.cache
        assert task["retryPolicy"]["maxRetryCount"] == settings.retries
        assert container["resources"]["resourceMemoryLimit"] == settings.memory
        assert container["resources"]["resourceCpuRequest"] == settings.cpu


def test_the_sharded_pipeline_embeds_and_assigns_in_loops_and_is_the_same_otherwise(spec: dict) -> None:
    sharded = first_document(COMPILED / "sharded_training.yaml")
    json_format.ParseDict(sharded, pipeline_spec_pb2.PipelineSpec())
    tasks = sharded["root"]["dag"]["tasks"]
    loops = {name: task for name, task in tasks.items() if "parameterIterator" in task}
    assert set(tasks) - set(loops) == set(STAGES) - {"assign-ids"} | {"merge-embeddings", "merge-ids", FIRST}
    inside = [sharded["components"][task["componentRef"]["name"]]["dag"]["tasks"] for task in loops.values()]
    assert sorted(name for dag in inside for name in dag) == ["assign-shard", "embed-shard"]
    for dag in inside:
        for name, task in dag.items():
            assert task["retryPolicy"]["maxRetryCount"] == SETTINGS[name].retries
    assert tasks["align"]["inputs"]["parameters"]["embed"]["runtimeValue"] == {"constant": "train"}
    same = set(STAGES) - {"align", "assign-ids"}
    renamed = json.dumps({name: tasks[name]["inputs"] for name in same})
    renamed = renamed.replace("merge-embeddings", "align").replace("merged_encoder", "encoder")
    assert json.loads(renamed.replace("merge-ids", "assign-ids")) == {
        name: spec["root"]["dag"]["tasks"][name]["inputs"] for name in same
    }


def test_the_night_keeps_the_champions_codebooks_and_goes_on_from_its_generator(night: dict) -> None:
    tasks = dag_of(night, "refresh")
    trained = {"align", "train-vrq", "embed-shard"}
    assert set(tasks) - {"for-loop-3"} == STAGES.keys() - trained | {"merge-embeddings"}
    held = {
        ("merge-embeddings", "encoder"): "encoder",
        ("assign-ids", "quantizer"): "quantizer",
        ("assign-ids", "parent"): "semantic_ids",
        ("sft", "parent"): "generator",
        ("calibrate-pruning", "parent"): "pruning",
    }
    for (task, name), part in held.items():
        source = tasks[task]["inputs"]["artifacts"][name]["componentInputArtifact"]
        assert source == f"pipelinechannel--open-champion-{part}"
    for task in ("validate", "evaluate"):
        source = tasks[task]["inputs"]["artifacts"]["champion"]["componentInputArtifact"]
        assert source == "pipelinechannel--open-champion-champion"
    for task in ("validate", "publish"):
        assert "night" in tasks[task]["inputs"]["parameters"]


def test_the_night_is_closed_whatever_happens_and_its_tasks_have_their_settings(night: dict) -> None:
    closing = night["root"]["dag"]["tasks"][CLOSING]
    assert closing["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(dag_of(night, "night")) == {FIRST, "open-champion", "condition-2"}
    inside = dag_of(night, "refresh") | dag_of(night, "night")
    for name in inside.keys() & SETTINGS.keys():
        assert inside[name].get("retryPolicy", {}).get("maxRetryCount", 0) == SETTINGS[name].retries
        assert inside[name]["cachingOptions"].get("enableCache", False) is SETTINGS[name].cache


def test_what_reads_or_moves_the_champion_is_never_cached() -> None:
    uncached = {name for name, settings in SETTINGS.items() if not settings.cache}
    assert uncached == {"publish", *NIGHT_STAGES, FIRST, CLOSING}
    assert not any(ALL_STAGES[name].pure for name in uncached - BESIDES)


def test_every_stage_has_a_component_with_its_inputs() -> None:
    found = {component.name: component.component_spec for component in components().values()}
    assert set(found) == ALL_STAGES.keys() | BESIDES
    for name, stage in ALL_STAGES.items():
        given = {*stage.inputs, *stage.collected, *stage.optional} - {*(() if name != "merge-ids" else ("parent",))}
        assert {*given, "recipe", "overrides"} <= set(found[name].inputs)
        assert {"metrics", "report"} < set(found[name].outputs)


def test_nothing_begins_before_the_prerequisites_are_there(spec: dict, night: dict) -> None:
    sharded = next(yaml.safe_load_all((COMPILED / "sharded_training.yaml").read_text()))
    for tasks, first in (
        (spec["root"]["dag"]["tasks"], "validate"),
        (sharded["root"]["dag"]["tasks"], "validate"),
        (dag_of(night, "night"), "open-champion"),
    ):
        assert tasks[first]["dependentTasks"] == [FIRST]
        assert [name for name, task in tasks.items() if not task.get("dependentTasks")] == [FIRST]


@pytest.mark.parametrize("folder", components())
def test_a_components_readme_shows_its_interface(folder: str) -> None:
    text = (ROOT / "components" / folder / "README.md").read_text()
    assert text == with_interface(text, components()[folder]), "run `python -m components.readme`"


def test_components_import_nothing_but_kfp_at_their_top() -> None:
    for file in (ROOT / "components").glob("*/component.py"):
        top = [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert {line.split()[1].split(".")[0] for line in top} == {"kfp", "components"}, file
