"""Resources, retries and caching of every task, in one place."""

from dataclasses import dataclass

from kfp import dsl
from kfp.kubernetes import use_secret_as_env

RETRY_WAIT = "60s"

FEATURE_STORE_SECRET = "onevision-feature-store"
FEATURE_STORE_KEYS = ("FEATURE_STORE", "FEATURE_STORE_REDIS", "FEATURE_STORE_REGISTRY")
"""The store that servers share, if the cluster has one: a secret whose keys are the variables' names."""


@dataclass(frozen=True)
class TaskSettings:
    """What a task may use on a cluster; the local runner ignores it.

    Attributes:
        cpu, memory: request and limit; memory is the tighter one, because a task beyond it is killed.
        retries: attempts after a failure of the machine; a mistake in the data fails each of them.
        cache: whether KFP may take the task's outputs from an earlier run with the same inputs.
    """

    cpu: str = "2"
    memory: str = "4Gi"
    retries: int = 2
    cache: bool = True


SETTINGS: dict[str, TaskSettings] = {
    "validate": TaskSettings(memory="6Gi"),
    "pair": TaskSettings(),
    "align": TaskSettings(cpu="4", memory="8Gi"),
    "train-vrq": TaskSettings(cpu="4"),
    "assign-ids": TaskSettings(),
    "materialize-features": TaskSettings(memory="6Gi"),
    "sft": TaskSettings(cpu="4", memory="8Gi"),
    "align-preferences": TaskSettings(cpu="4", memory="8Gi"),
    "calibrate-pruning": TaskSettings(cpu="4"),
    "evaluate": TaskSettings(cpu="4", memory="8Gi"),
    "publish": TaskSettings(cache=False),
    "embed-shard": TaskSettings(cpu="4"),
    "merge-embeddings": TaskSettings(cpu="1", memory="2Gi"),
    "assign-shard": TaskSettings(),
    "merge-ids": TaskSettings(memory="8Gi"),
    "open-champion": TaskSettings(cache=False),
    "close-night": TaskSettings(cpu="1", memory="1Gi", cache=False),
}
"""Stage name -> settings. What reads or moves the champion is never cached."""


def configure(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Apply the settings of the stage that the task is named after, and return the task."""
    settings = SETTINGS[task.name]
    task.set_cpu_request(settings.cpu).set_cpu_limit(settings.cpu)
    task.set_memory_request(settings.memory).set_memory_limit(settings.memory)
    task.set_retry(settings.retries, backoff_duration=RETRY_WAIT)
    task.set_caching_options(settings.cache)
    if task.name == "publish":
        use_secret_as_env(task, FEATURE_STORE_SECRET, {key: key for key in FEATURE_STORE_KEYS}, optional=True)
    return task
