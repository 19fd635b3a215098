"""Objects of a rendered overlay, and the pods that they make."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
OVERLAYS = Path(__file__).parent / "overlays"
KSERVE_FIELDS = (
    "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "canaryTrafficPercent", "labels",
)  # fmt: skip
"""Fields of an InferenceService's predictor that are not a PodSpec's."""


class RenderError(Exception):
    """An overlay that does not render, or no program that could render it."""


@dataclass(frozen=True)
class Pod:
    """A pod that an object makes.

    Attributes:
        owner: the object.
        labels: of the pod; spec: its PodSpec.
        serves: whether it runs until somebody stops it.
    """

    owner: Object
    labels: dict[str, str]
    spec: Object
    serves: bool

    @property
    def containers(self) -> list[Object]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]


def renderer() -> list[str] | None:
    """The command that renders a kustomization, if one is installed."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else None


def render(overlay: Path) -> list[Object]:
    """Every object of an overlay; `RenderError` if it does not render."""
    command = renderer()
    if command is None:
        raise RenderError("neither kubectl nor kustomize is installed")
    done = subprocess.run([*command, str(overlay)], capture_output=True, text=True)
    if done.returncode:
        raise RenderError(f"{overlay}: {done.stderr.strip()}")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def title(item: Object) -> str:
    """`Kind/name` of an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def namespace(item: Object) -> str | None:
    """Namespace of an object, None if it has none."""
    name: str | None = item["metadata"].get("namespace")
    return name


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def pods(objects: list[Object]) -> Iterator[Pod]:
    """The pods that the objects make."""
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "InferenceService":
            predictor = spec["predictor"]
            labels = predictor.get("labels", {}) | {"serving.kserve.io/inferenceservice": item["metadata"]["name"]}
            yield Pod(item, labels, {k: v for k, v in predictor.items() if k not in KSERVE_FIELDS}, serves=True)
            continue
        if item["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                template = job["template"]["spec"]["template"]
                yield Pod(item, template["metadata"]["labels"], template["spec"], serves=False)
            continue
        if item["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if item["kind"] == "Pod":
            yield Pod(item, item["metadata"].get("labels", {}), spec, serves=True)
        elif "template" in spec:
            template = spec["template"]
            labels = template.get("metadata", {}).get("labels", {})
            yield Pod(item, labels, template["spec"], serves=item["kind"] not in ("CronJob", "Job"))


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector (`matchLabels` only) picks these labels; an empty one picks all."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
