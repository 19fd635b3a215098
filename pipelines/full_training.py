"""The pipelines `full_training` and `sharded_training`: from a snapshot to a gated search bundle.

Both make the same; the second embeds pictures and assigns IDs in shards, tasks of their own that run side by side and
resume one by one. The order of the tasks follows from their data alone. The same functions are compiled for a cluster
(`python -m pipelines.compile`) and run on one machine (`onevision run full-training`).
"""

from typing import Any

from kfp import dsl

from components.data_validation.component import validate
from components.encoder_alignment.component import align
from components.encoder_alignment_on_machines.component import align_on_machines
from components.evaluation.component import evaluate
from components.feature_materialization.component import materialize_features
from components.generative_sft.component import sft
from components.id_assignment.component import assign_ids
from components.multi_view_pairing.component import pair
from components.preference_alignment.component import align_preferences
from components.pruning_calibration.component import calibrate_pruning
from components.publishing.component import publish
from components.vrq_training.component import train_vrq
from pipelines.settings import machine_resources
from pipelines.targets import current
from pipelines.tasks import EIGHT_SHARDS, Outputs, assign_in_shards, checked, embed_in_shards, outputs_of


def train_encoder(outputs: Outputs, **inputs: Any) -> Any:
    """The `encoder` artifact: trained in one pod, or as a job on several machines where the pipeline is placed so."""
    placement = current()
    if placement.nodes == 1:
        return outputs(align, **inputs)["encoder"]
    accelerator = placement.target.accelerator
    job = outputs(
        align_on_machines,
        **inputs,
        image=placement.image,
        nodes=placement.nodes,
        processes=accelerator.count if accelerator else 1,
        resources=machine_resources("align"),
        scratch=placement.scratch,
    )
    return job["encoder"]


def _from_ids_to_bundle(
    outputs: Outputs, bundle_store: str, clean: Any, pairs: Any, encoder: Any, quantizer: Any, semantic_ids: Any
) -> None:
    features = outputs(materialize_features, snapshot=clean, pairs=pairs)["features"]
    known = {"encoder": encoder, "semantic_ids": semantic_ids, "features": features}
    fine_tuned = outputs(sft, snapshot=clean, pairs=pairs, quantizer=quantizer, **known)["generator"]
    aligned = outputs(align_preferences, pairs=pairs, generator=fine_tuned, **known)["aligned_generator"]
    pruning = outputs(calibrate_pruning, snapshot=clean, pairs=pairs, generator=aligned, **known)["pruning"]
    trained = {"quantizer": quantizer, "generator_sft": fine_tuned, "generator_aligned": aligned, "pruning": pruning}
    measured = outputs(evaluate, snapshot=clean, pairs=pairs, **known, **trained)["evaluation"]
    outputs(publish, snapshot=clean, evaluation=measured, bundle_store=bundle_store, **known, **trained)


@dsl.pipeline(
    name="onevision-full-training",
    description="Train every part of OneVision on a snapshot, evaluate it, and publish a bundle.",
)
def full_training(
    snapshot: str,
    run_date: str,
    snapshot_id: str = "",
    recipe: str = "quickstart",
    overrides: list[str] = [],  # noqa: B006  (KFP reads the default; nothing changes it)
    bundle_store: str = "",
) -> None:
    """Full training.

    Args:
        snapshot: folder or `gs://` prefix of the snapshot.
        run_date: ISO date of the run; a new date is a new run for KFP's cache.
        snapshot_id: id that the snapshot must carry; empty takes any.
        recipe: packaged name of the recipe.
        overrides: `section.key=value` over the recipe.
        bundle_store: where the bundle is published; empty only assembles it.
    """
    outputs = outputs_of(recipe, overrides)
    place = checked(snapshot, bundle_store, gpu=True)
    clean = outputs(validate, snapshot=place, snapshot_id=snapshot_id, run_date=run_date)["clean_snapshot"]
    pairs = outputs(pair, snapshot=clean)["pairs"]
    encoder = train_encoder(outputs, snapshot=clean, pairs=pairs)
    quantizer = outputs(train_vrq, snapshot=clean, pairs=pairs, encoder=encoder)["quantizer"]
    semantic_ids = outputs(assign_ids, snapshot=clean, encoder=encoder, quantizer=quantizer)["semantic_ids"]
    _from_ids_to_bundle(outputs, bundle_store, clean, pairs, encoder, quantizer, semantic_ids)


@dsl.pipeline(
    name="onevision-sharded-training",
    description="Full training whose embedding of pictures and assignment of IDs run in shards.",
)
def sharded_training(
    snapshot: str,
    run_date: str,
    snapshot_id: str = "",
    recipe: str = "quickstart",
    overrides: list[str] = [],  # noqa: B006  (KFP reads the default; nothing changes it)
    bundle_store: str = "",
    shards: list[str] = EIGHT_SHARDS,
) -> None:
    """Full training in shards.

    Args:
        snapshot: folder or `gs://` prefix of the snapshot.
        run_date: ISO date of the run; a new date is a new run for KFP's cache.
        snapshot_id: id that the snapshot must carry; empty takes any.
        recipe: packaged name of the recipe.
        overrides: `section.key=value` over the recipe.
        bundle_store: where the bundle is published; empty only assembles it.
        shards: every shard of n as `k/n`.
    """
    outputs = outputs_of(recipe, overrides)
    place = checked(snapshot, bundle_store, gpu=True)
    clean = outputs(validate, snapshot=place, snapshot_id=snapshot_id, run_date=run_date)["clean_snapshot"]
    pairs = outputs(pair, snapshot=clean)["pairs"]
    trained = train_encoder(outputs, snapshot=clean, pairs=pairs, embed="train")
    encoder = embed_in_shards(outputs, shards, snapshot=clean, pairs=pairs, encoder=trained)
    quantizer = outputs(train_vrq, snapshot=clean, pairs=pairs, encoder=encoder)["quantizer"]
    semantic_ids = assign_in_shards(outputs, shards, snapshot=clean, encoder=encoder, quantizer=quantizer)
    _from_ids_to_bundle(outputs, bundle_store, clean, pairs, encoder, quantizer, semantic_ids)
