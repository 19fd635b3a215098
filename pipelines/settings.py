"""Resources, retries, time limits and caching of every task, in one place. Where they run: `pipelines.targets`."""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components import BASE_IMAGE
from pipelines.targets import current

RETRY_WAIT = "60s"
SHARED_MEMORY = "/dev/shm"
LABELS = {"app.kubernetes.io/part-of": "onevision"}


@dataclass(frozen=True)
class TaskSettings:
    """What a task may use on a cluster; the local runner ignores it.

    Attributes:
        cpu, memory: request and limit; memory is the tighter one, because a task beyond it is killed.
        retries: attempts after a failure of the machine, each after twice the wait; a mistake in the data fails each.
        hours: after which the task is stopped, waiting for a node included.
        cache: whether KFP may take the task's outputs from an earlier run with the same inputs.
        gpu: whether the task takes the target's accelerator, where it has one.
        shared: size of /dev/shm, which processes of one task share pictures and gradients through.
        secrets: whether the task sees the target's secrets; it does not start without them.
        secrets_if_there: whether it sees those of them that are there, and starts in any case.
    """

    cpu: str = "2"
    memory: str = "4Gi"
    retries: int = 2
    hours: float = 2.0
    cache: bool = True
    gpu: bool = False
    shared: str = ""
    secrets: bool = False
    secrets_if_there: bool = False


SETTINGS: dict[str, TaskSettings] = {
    "prerequisites": TaskSettings(cpu="1", memory="2Gi", retries=0, hours=1.0, cache=False, secrets_if_there=True),
    "validate": TaskSettings(memory="6Gi"),
    "pair": TaskSettings(),
    "align": TaskSettings(cpu="4", memory="8Gi", hours=12.0, gpu=True, shared="2Gi"),
    "align-on-machines": TaskSettings(cpu="1", memory="2Gi", hours=12.0),
    "train-vrq": TaskSettings(cpu="4"),
    "assign-ids": TaskSettings(),
    "materialize-features": TaskSettings(memory="6Gi"),
    "sft": TaskSettings(cpu="4", memory="8Gi", hours=12.0),
    "align-preferences": TaskSettings(cpu="4", memory="8Gi", hours=6.0),
    "calibrate-pruning": TaskSettings(cpu="4"),
    "evaluate": TaskSettings(cpu="4", memory="8Gi", hours=4.0),
    "publish": TaskSettings(cache=False, secrets=True),
    "embed-shard": TaskSettings(cpu="4"),
    "merge-embeddings": TaskSettings(cpu="1", memory="2Gi"),
    "assign-shard": TaskSettings(),
    "merge-ids": TaskSettings(memory="8Gi"),
    "open-champion": TaskSettings(cache=False),
    "close-night": TaskSettings(cpu="1", memory="1Gi", cache=False),
}
"""Task -> settings. What reads or moves the champion is never cached."""


def machine_resources(stage: str) -> dict[str, str]:
    """What each machine of a job takes that runs a stage: what its task would."""
    settings, accelerator = SETTINGS[stage], current().target.accelerator
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    return resources | ({accelerator.resource: str(accelerator.count)} if settings.gpu and accelerator else {})


def configure(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Apply the settings of the stage that the task is named after, on the current target, and return the task."""
    settings, placement = SETTINGS[task.name], current()
    if placement.image != BASE_IMAGE:
        task.set_container_image(placement.image)
    task.set_cpu_request(settings.cpu).set_cpu_limit(settings.cpu)
    task.set_memory_request(settings.memory).set_memory_limit(settings.memory)
    task.set_caching_options(settings.cache)
    if settings.retries:
        task.set_retry(settings.retries, backoff_duration=RETRY_WAIT)
    kubernetes.set_timeout(task, round(settings.hours * 3600))
    for label, value in LABELS.items():
        kubernetes.add_pod_label(task, label, value)
    if settings.shared:
        kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit=settings.shared)
    if settings.secrets or settings.secrets_if_there:
        for secret, keys in placement.target.secrets.items():
            kubernetes.use_secret_as_env(task, secret, dict(keys), optional=settings.secrets_if_there)
    return take_accelerator(task) if settings.gpu else task


def take_accelerator(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Put the task on a node with the target's accelerator, if it has one, and return the task."""
    accelerator = current().target.accelerator
    if accelerator:
        task.set_accelerator_type(accelerator.resource).set_accelerator_limit(accelerator.count)
        kubernetes.add_node_selector(task, *accelerator.node_label)
        kubernetes.add_toleration(task, key=accelerator.resource, operator="Exists", effect="NoSchedule")
    return task
