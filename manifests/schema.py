"""Strict schemas: Kubernetes' own of several versions, and ours for the custom resources that we use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate

from manifests.workloads import KSERVE_FIELDS, Object, pods, title

VERSIONS = ("1.31", "1.34", "1.37")
CUSTOM = {
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule",
    ("serving.kserve.io/v1beta1", "InferenceService"): "inferenceservice",
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): "trainingruntime",
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): "trainjob",
}
EMBEDDED = ("InferenceService", "TrainingRuntime")
"""Custom resources that hold whole PodSpecs, which are checked as pods."""
SCHEMAS = Path(__file__).parent / "schemas"


def problems(item: Object, version: str) -> Iterator[str]:
    """What a cluster of this version would refuse or ignore in an object."""
    custom = CUSTOM.get((item["apiVersion"], item["kind"]))
    if custom is None:
        yield from _kubernetes(item, version, title(item))
        return
    schema = json.loads((SCHEMAS / f"{custom}.json").read_text())
    checked = item
    if custom == "inferenceservice":
        predictor = {key: value for key, value in item["spec"]["predictor"].items() if key in KSERVE_FIELDS}
        checked = item | {"spec": item["spec"] | {"predictor": predictor}}
    for pod in pods([item]) if item["kind"] in EMBEDDED else ():
        meta = {"name": item["metadata"]["name"], "labels": pod.labels}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod.spec}
        yield from _kubernetes(whole, version, title(item))
    for error in jsonschema.Draft202012Validator(schema).iter_errors(checked):
        yield f"{title(item)}: {error.json_path}: {error.message}"


def _kubernetes(item: Object, version: str, name: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except jsonschema.ValidationError as error:
        yield f"{name}: {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{name}: {error.message}"
