"""How pipelines make their tasks: prerequisites first, the settings of a stage, and loops over shards."""

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.embedding_merge.component import merge_embeddings
from components.embedding_shard.component import embed_shard
from components.id_merge.component import merge_ids
from components.id_shard.component import assign_shard
from components.prerequisites.component import prerequisites
from pipelines.settings import configure, take_accelerator
from pipelines.targets import current

Outputs = Callable[..., Mapping[str, Any]]
"""Makes the task of a component, and returns its outputs."""

EIGHT_SHARDS = [f"{number}/8" for number in range(1, 9)]


def embed_in_shards(outputs: Outputs, shards: Any, **inputs: Any) -> Any:
    """The `encoder` artifact with every picture, embedded by a task a shard."""
    with dsl.ParallelFor(shards) as shard:
        parts = outputs(embed_shard, **inputs, shard=shard)["embedding_shard"]
    return outputs(merge_embeddings, **inputs, shards=dsl.Collected(parts))["merged_encoder"]


def assign_in_shards(outputs: Outputs, shards: Any, **inputs: Any) -> Any:
    """The `semantic_ids` artifact, its codes voted by a task a shard."""
    with dsl.ParallelFor(shards) as shard:
        parts = outputs(assign_shard, **inputs, shard=shard)["id_shard"]
    return outputs(merge_ids, **inputs, shards=dsl.Collected(parts))["semantic_ids"]


def outputs_of(recipe: str, overrides: list[str]) -> Outputs:
    """Tasks of one recipe, with the settings of their stages."""

    def outputs(component: BaseComponent, **inputs: Any) -> Mapping[str, Any]:
        return configure(component(**inputs, recipe=recipe, overrides=overrides)).outputs

    return outputs


def checked(snapshot: Any, store: Any, gpu: bool) -> Any:
    """The place of the snapshot, once everything that the pipeline needs was found there and elsewhere.

    Args:
        gpu: whether a task of the pipeline takes the target's accelerator, where it has one.
    """
    target = current().target
    gpu = gpu and target.accelerator is not None
    task = prerequisites(
        snapshot=snapshot, store=store, variables=target.variables, services=list(target.services), gpu=gpu
    )
    configure(task)
    return (take_accelerator(task) if gpu else task).output
