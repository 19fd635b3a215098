"""The stages of OneVision, one line each: the table that the CLI, the KFP components and the pipelines are made from.

A stage is a library function `run(<input>: Path, ..., out: Path, config: <Section>Config, seed: int) -> StageReport`.
It reads artifacts, writes one artifact to `out`, and is deterministic by (inputs, config, seed).
Nothing heavy is imported until a stage runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: the command, `onevision <name>`.
        function: `module:function` in the library.
        section: the section of the recipe that it takes.
        inputs: input name -> kind of artifact.
        output: kind of the artifact that it writes.
        summary: one line for help texts and reports.
        extra: the optional dependency group that it needs, if any.
        collected: input name -> kind of artifacts, for inputs that are one or more of them.
        optional: input name -> kind of artifact, for inputs that may be left out; they come from an earlier run.
        parameters: keyword -> help of further text arguments of the function, such as where to publish.
        distributed: whether several processes (`torchrun`) may share the work.
        pure: whether the artifact follows from inputs, recipe and code alone; only such a stage is ever reused.
    """

    name: str
    function: str
    section: str
    inputs: dict[str, str]
    output: str
    summary: str
    extra: str | None = None
    collected: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    distributed: bool = False
    pure: bool = True


_STAGES = (
    Stage(
        "validate",
        "onevision.validation.stage:run",
        "validation",
        {"snapshot": "snapshot"},
        "snapshot",
        "check a snapshot against the contract, set bad rows aside with the reason",
        extra="validation",
        optional={"champion": "bundle"},
    ),
    Stage(
        "pair",
        "onevision.pairing.stage:run",
        "pairing",
        {"snapshot": "snapshot"},
        "pairs",
        "split by time, collect queries, mine and clean positive pairs of views",
    ),
    Stage(
        "align",
        "onevision.encoder.stage:run",
        "encoder",
        {"snapshot": "snapshot", "pairs": "pairs"},
        "encoder",
        "train the image encoder so that views of one product meet; embed every image",
        distributed=True,
        parameters={"embed": "all pictures (the default), or train: those that are trained on, shards embed the rest"},
    ),
    Stage(
        "train-vrq",
        "onevision.quantization.stage:run",
        "quantization",
        {"snapshot": "snapshot", "pairs": "pairs", "encoder": "encoder"},
        "quantizer",
        "train the vision-aligned residual quantiser and compare it with residual k-means",
    ),
    Stage(
        "assign-ids",
        "onevision.semantic_ids.stage:run",
        "semantic_ids",
        {"snapshot": "snapshot", "encoder": "encoder", "quantizer": "quantizer"},
        "semantic_ids",
        "give every item its semantic ID; build buckets and trie",
        optional={"parent": "semantic_ids"},
    ),
    Stage(
        "materialize-features",
        "onevision.features.stage:run",
        "features",
        {"snapshot": "snapshot", "pairs": "pairs"},
        "features",
        "user sequences through Feast: point-in-time rows for training, online rows for serving",
        extra="features",
        optional={"earlier": "features"},
    ),
    Stage(
        "sft",
        "onevision.generator.stage:run",
        "generator",
        {
            "snapshot": "snapshot",
            "pairs": "pairs",
            "encoder": "encoder",
            "quantizer": "quantizer",
            "semantic_ids": "semantic_ids",
            "features": "features",
        },
        "generator",
        "train the generator: visual semantics, co-occurrence, personalised fine-tuning",
        distributed=True,
        optional={"parent": "generator"},
    ),
    Stage(
        "align-preferences",
        "onevision.preference.stage:run",
        "preference",
        {
            "pairs": "pairs",
            "encoder": "encoder",
            "semantic_ids": "semantic_ids",
            "features": "features",
            "generator": "generator",
        },
        "generator",
        "align the generator with preferences (DPO with an SFT anchor), gated against its parent",
    ),
    Stage(
        "calibrate-pruning",
        "onevision.pruning.stage:run",
        "pruning",
        {
            "snapshot": "snapshot",
            "pairs": "pairs",
            "encoder": "encoder",
            "semantic_ids": "semantic_ids",
            "features": "features",
            "generator": "generator",
        },
        "pruning",
        "choose the cheapest search that keeps the hit rates: early opening, beam margin, histories, tokens, patches",
        optional={"parent": "pruning"},
    ),
    Stage(
        "evaluate",
        "onevision.evaluation.stage:run",
        "evaluation",
        {
            "snapshot": "snapshot",
            "pairs": "pairs",
            "encoder": "encoder",
            "quantizer": "quantizer",
            "semantic_ids": "semantic_ids",
            "features": "features",
            "generator_sft": "generator",
            "generator_aligned": "generator",
            "pruning": "pruning",
        },
        "evaluation",
        "measure dense neighbours, the cascade and the generators on the same held-out queries",
        optional={"champion": "bundle"},
    ),
    Stage(
        "publish",
        "onevision.publishing.stage:run",
        "publishing",
        {
            "snapshot": "snapshot",
            "encoder": "encoder",
            "quantizer": "quantizer",
            "semantic_ids": "semantic_ids",
            "features": "features",
            "generator_sft": "generator",
            "generator_aligned": "generator",
            "pruning": "pruning",
            "evaluation": "evaluation",
        },
        "bundle",
        "gate the challenger, assemble the bundle and promote it",
        parameters={
            "store": "bundle store to publish into: a folder or gs://bucket/prefix; none only assembles",
            "night": "what open-champion named the night; its lease is renewed first, its outcome recorded last",
        },
        pure=False,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _STAGES}

_SHARD = {"shard": "such as 2/3, the second of three; by default 1/1, all of it"}
_SHARD_STAGES = (
    Stage(
        "embed-shard",
        "onevision.encoder.embedding:run_shard",
        "encoder",
        {"snapshot": "snapshot", "pairs": "pairs", "encoder": "encoder"},
        "embedding_shard",
        "embed one shard of a snapshot's pictures with a trained encoder",
        parameters=_SHARD,
    ),
    Stage(
        "merge-embeddings",
        "onevision.encoder.embedding:run_merge",
        "encoder",
        {"snapshot": "snapshot", "pairs": "pairs", "encoder": "encoder"},
        "encoder",
        "put embedded shards together beside their encoder",
        collected={"shards": "embedding_shard"},
    ),
    Stage(
        "assign-shard",
        "onevision.semantic_ids.shards:run_shard",
        "semantic_ids",
        {"snapshot": "snapshot", "encoder": "encoder", "quantizer": "quantizer"},
        "id_shard",
        "vote the codes of one shard of the items",
        parameters=_SHARD,
    ),
    Stage(
        "merge-ids",
        "onevision.semantic_ids.stage:run_merge",
        "semantic_ids",
        {"snapshot": "snapshot", "encoder": "encoder", "quantizer": "quantizer"},
        "semantic_ids",
        "put shards of items together: buckets and trie",
        collected={"shards": "id_shard"},
        optional={"parent": "semantic_ids"},
    ),
)

SHARD_STAGES: dict[str, Stage] = {stage.name: stage for stage in _SHARD_STAGES}
"""What `align` and `assign-ids` do in one process, in parts: only the sharded pipeline runs these."""

_NIGHT_STAGES = (
    Stage(
        "open-champion",
        "onevision.publishing.opening:run",
        "publishing",
        {},
        "bundle",
        "begin a night: take the store's lease, and fetch the champion that the night starts from",
        parameters={
            "champion": "bundle store: a folder or gs://bucket/prefix",
            "snapshot": "the day: a snapshot's folder or gs:// prefix",
            "run": "id of this run; by default a random one",
            "recipe_hash": "which recipe the night is run with; by default that of --recipe",
        },
        pure=False,
    ),
)

NIGHT_STAGES: dict[str, Stage] = {stage.name: stage for stage in _NIGHT_STAGES}
"""What only the nightly refresh runs."""

ALL_STAGES: dict[str, Stage] = STAGES | SHARD_STAGES | NIGHT_STAGES
