"""A stage on several machines: a Kubeflow Trainer `TrainJob` that runs it under `torchrun`, from the same recipe.

The task of the pipeline makes the job, waits for its end and takes the artifact from the object store. What a machine
does is `onevision.train_node`; its pods look as the `TrainingRuntime` in `manifests/components/trainer` says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onevision.data.store import download, is_remote, join
from onevision.errors import MissingDependencyError, OneVisionError
from onevision.runner import find_stage

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "onevision-torch"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_S = 15.0


@dataclass(frozen=True)
class Machines:
    """What a job runs on.

    Attributes:
        nodes: machines; processes: of each, one a GPU where there are any.
        image: of every machine, the image of the pipeline's tasks.
        resources: requests and limits of a machine, such as `{"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}`.
    """

    nodes: int
    processes: int
    image: str
    resources: Mapping[str, str]


def train_job(
    name: str,
    stage: str,
    inputs: Mapping[str, str],
    out: str,
    machines: Machines,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The `TrainJob` that runs a stage.

    Args:
        inputs: input name -> artifact at `gs://bucket/prefix`.
        out: `gs://bucket/prefix` where the artifact goes.
        options: the stage's further options, name -> value.

    Raises:
        OneVisionError: no such stage, one that cannot be shared, or a place that other machines cannot read.
    """
    if not find_stage(stage).distributed:
        raise OneVisionError(f"stage {stage} runs in one process; a job on {machines.nodes} machines would not help it")
    for place in (*inputs.values(), out):
        if not is_remote(place):
            raise OneVisionError(
                f"{place}: machines of a job share no disk; its artifacts must be at gs://bucket/prefix"
            )
    words = [
        stage,
        *(f"--input={name}={place}" for name, place in inputs.items()),
        f"--out={out}",
        f"--recipe={recipe}",
    ]
    words += [f"--option={name}={value}" for name, value in (options or {}).items()]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "onevision"}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": machines.image,
                "command": ["python", "-m", "onevision.train_node"],
                "args": [*words, *overrides],
                "numNodes": machines.nodes,
                "numProcPerNode": machines.processes,
                "resourcesPerNode": {"requests": dict(machines.resources), "limits": dict(machines.resources)},
            },
        },
    }


def run_on_machines(
    stage: str,
    inputs: Mapping[str, str],
    out: Path,
    scratch: str,
    machines: Machines,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    api: Any = None,
    namespace: str | None = None,
    poll_s: float = POLL_S,
) -> None:
    """Run a stage as a job, and fetch its artifact to `out`; the job goes, whatever comes of it.

    Args:
        scratch: `gs://bucket/prefix` below which the job leaves its artifact.
        api: a `kubernetes.client.CustomObjectsApi`, by default that of the cluster around this process.

    Raises:
        OneVisionError: the job failed, or is none that can be made.
    """
    name = f"onevision-{stage}-{uuid.uuid4().hex[:8]}"
    place = join(scratch, name)
    job = train_job(name, stage, inputs, place, machines, recipe=recipe, overrides=overrides, options=options)
    api, namespace = api or _cluster(), namespace or NAMESPACE_FILE.read_text().strip()
    where = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
    api.create_namespaced_custom_object(**where, body=job)
    try:
        while (ended := _ended(api.get_namespaced_custom_object(**where, name=name))) is None:
            time.sleep(poll_s)
    finally:
        api.delete_namespaced_custom_object(**where, name=name)
    if ended:
        raise OneVisionError(f"TrainJob {name} failed: {ended}; the log of its pods says more")
    download(place, out)


def _ended(job: Mapping[str, Any]) -> str | None:
    """Why a job failed, empty if it is complete, None while it goes on."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            reason = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return "" if condition["type"] == "Complete" else reason
    return None


def _cluster() -> Any:
    try:
        from kubernetes import client, config
    except ModuleNotFoundError:
        raise MissingDependencyError("a TrainJob needs a client: pip install 'onevision[pipelines]'") from None
    config.load_incluster_config()
    return client.CustomObjectsApi()
