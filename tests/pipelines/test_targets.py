"""What a pipeline gets on each target: image, GPU, nodes, secrets, limits; as a package or as a resource."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from onevision.errors import OneVisionError
from pipelines.compile import PIPELINES, compile_pipeline, compile_pipelines
from pipelines.settings import SETTINGS
from pipelines.targets import TARGETS

VARIABLES = {"FEATURE_STORE", "FEATURE_STORE_REDIS", "FEATURE_STORE_REGISTRY"}
ADDRESSES = Path(__file__).parents[2] / "feature_repo" / "feature_store.production.yaml"
IMAGE = "registry.example/onevision@sha256:0"


@pytest.fixture(scope="module")
def prod(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Pipeline -> its specification and its settings of Kubernetes, on the target prod."""
    files = compile_pipelines(tmp_path_factory.mktemp("prod"), target="prod", image=IMAGE)
    return {file.stem: tuple(yaml.safe_load_all(file.read_text())) for file in files}


def executors(package: tuple[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Stage, container and Kubernetes settings of every executor; the settings are parsed, so no field is misspelt."""
    spec, platform = package
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in spec["deploymentSpec"]["executors"].items():
        config = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        json_format.ParseDict(settings[label], config)
        yield label.removeprefix("exec-"), executor["container"], config


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_task_of_prod_has_image_limits_secrets_and_labels(prod: dict[str, Any], pipeline: str) -> None:
    found = list(executors(prod[pipeline]))
    assert {name for name, _, _ in found} <= SETTINGS.keys()
    for name, container, config in found:
        settings = SETTINGS[name]
        assert container["image"] == IMAGE
        assert container["resources"]["resourceMemoryLimit"] == settings.memory
        assert config.active_deadline_seconds == settings.hours * 3600
        assert dict(config.pod_metadata.labels) == {"app.kubernetes.io/part-of": "onevision"}
        secrets = {secret.secret_name: {key.env_var for key in secret.key_to_env} for secret in config.secret_as_env}
        assert secrets == ({"onevision-feature-store": VARIABLES} if name in {"prerequisites", "publish"} else {})
        assert [secret.optional for secret in config.secret_as_env] == [name == "prerequisites"] * len(secrets)


def test_the_secrets_hold_what_the_shared_feature_store_asks_for() -> None:
    assert set(re.findall(r"FEATURE_STORE_\w+", ADDRESSES.read_text())) | {"FEATURE_STORE"} == VARIABLES


def test_training_takes_the_accelerator_where_it_is(prod: dict[str, Any]) -> None:
    on_gpu = {
        name: (container, config)
        for name, container, config in executors(prod["full_training"])
        if name in {"prerequisites", "align"}
    }
    for container, config in on_gpu.values():
        accelerator = container["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
        assert dict(config.node_selector.labels) == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        (toleration,) = config.tolerations
        assert (toleration.key, toleration.operator, toleration.effect) == ("nvidia.com/gpu", "Exists", "NoSchedule")
    (memory,) = on_gpu["align"][1].empty_dir_mounts
    assert (memory.mount_path, memory.medium, memory.size_limit) == ("/dev/shm", "Memory", "2Gi")
    for name, container, config in executors(prod["full_training"]):
        if name not in on_gpu:
            assert "accelerator" not in container["resources"]
            assert not config.tolerations
            assert not config.node_selector.labels


def test_the_first_task_asks_for_what_target_and_pipeline_take(prod: dict[str, Any]) -> None:
    night = prod["nightly_refresh"][0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]["prerequisites"]
    training = prod["full_training"][0]["root"]["dag"]["tasks"]["prerequisites"]
    for given, gpu in ((night, False), (training, True)):
        parameters = given["inputs"]["parameters"]
        constants = {
            name: entry["runtimeValue"]["constant"] for name, entry in parameters.items() if "runtimeValue" in entry
        }
        services = ["onevision-redis.onevision:6379"]
        assert constants == {"variables": sorted(VARIABLES), "services": services, "gpu": gpu}
        assert "retryPolicy" not in given


def test_a_night_waits_for_no_gpu(prod: dict[str, Any]) -> None:
    for _, container, config in executors(prod["nightly_refresh"]):
        assert "accelerator" not in container["resources"]
        assert not config.node_selector.labels


def test_retries_wait_longer_each_time(prod: dict[str, Any]) -> None:
    policy = prod["full_training"][0]["root"]["dag"]["tasks"]["sft"]["retryPolicy"]
    assert (policy["maxRetryCount"], policy["backoffDuration"], policy["backoffFactor"]) == (2, "60s", 2.0)


def test_a_target_leaves_the_graph_as_it_is(prod: dict[str, Any], tmp_path: Path) -> None:
    file = compile_pipeline("full_training", tmp_path / "local.yaml")
    local = next(yaml.safe_load_all(file.read_text()))["root"]["dag"]["tasks"]
    remote = prod["full_training"][0]["root"]["dag"]["tasks"]
    assert list(local) == list(remote)
    for name, task in local.items():
        assert remote[name].get("dependentTasks") == task.get("dependentTasks")
        assert remote[name]["inputs"].get("artifacts") == task["inputs"].get("artifacts")


@pytest.mark.parametrize(
    ("target", "image", "message"),
    [
        ("production", IMAGE, "no target 'production'; there are local, dev, prod"),
        ("prod", "registry.example/onevision:0.1.0", "wants an image by digest"),
    ],
)
def test_a_wrong_target_is_named(tmp_path: Path, target: str, image: str, message: str) -> None:
    with pytest.raises(OneVisionError, match=message):
        compile_pipeline("full_training", tmp_path / "x.yaml", target=target, image=image)
    assert not list(tmp_path.iterdir())


def test_resources_carry_the_package_under_a_version_that_follows_from_it(tmp_path: Path) -> None:
    def resources(image: str) -> tuple[Any, Any]:
        file = compile_pipeline("full_training", tmp_path / "x.yaml", target="dev", image=image, namespace="kubeflow")
        pipeline, version = yaml.safe_load_all(file.read_text())
        return pipeline, version

    pipeline, version = resources("registry.example/onevision:1")
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {pipeline["apiVersion"], version["apiVersion"]} == {"pipelines.kubeflow.org/v2beta1"}
    assert {pipeline["metadata"]["namespace"], version["metadata"]["namespace"]} == {"kubeflow"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "onevision-full-training"
    json_format.ParseDict(version["spec"]["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(version["spec"]["platformSpec"], pipeline_spec_pb2.PlatformSpec())
    again, other = (resources(f"registry.example/onevision:{tag}")[1]["metadata"]["name"] for tag in (1, 2))
    assert again == version["metadata"]["name"] != other


def test_several_machines_train_as_a_job_and_the_rest_is_as_before(prod: dict[str, Any], tmp_path: Path) -> None:
    given = {"target": "prod", "image": IMAGE, "nodes": 4, "scratch": "gs://shop/scratch"}
    file = compile_pipeline("full_training", tmp_path / "x.yaml", **given)
    spec, platform = yaml.safe_load_all(file.read_text())
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    tasks = spec["root"]["dag"]["tasks"]
    parameters = tasks["align-on-machines"]["inputs"]["parameters"]
    asked = {name: entry["runtimeValue"]["constant"] for name, entry in parameters.items() if "runtimeValue" in entry}
    resources = {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert asked == {"image": IMAGE, "nodes": 4, "processes": 1, "scratch": "gs://shop/scratch", "resources": resources}
    assert not any(config.tolerations for name, _, config in executors((spec, platform)) if name == "align-on-machines")
    before = prod["full_training"][0]["root"]["dag"]["tasks"]
    assert set(tasks) - {"align-on-machines"} == set(before) - {"align"}
    with pytest.raises(OneVisionError, match="name a bucket"):
        compile_pipeline("full_training", tmp_path / "y.yaml", **given | {"scratch": "/tmp/x"})


def test_secrets_are_named_and_never_written_out() -> None:
    assert TARGETS["local"].secrets == {}
    assert TARGETS["prod"].variables == sorted(VARIABLES)
