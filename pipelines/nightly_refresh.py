"""The pipeline `nightly_refresh`: a new day into the champion's bundle, or the champion as it is.

Encoder and codebooks are the champion's and stay frozen: new items get semantic IDs, published ones never move. The
generator goes on from the champion's on the day and a replay, is measured beside it on the same queries, and takes its
place only through the gate. Whatever happens, the exit handler says so and hands the store back.
"""

from kfp import dsl

from components.champion_opening.component import open_champion
from components.data_validation.component import validate
from components.evaluation.component import evaluate
from components.feature_materialization.component import materialize_features
from components.generative_sft.component import sft
from components.id_assignment.component import assign_ids
from components.multi_view_pairing.component import pair
from components.night_closing.component import close_night
from components.preference_alignment.component import align_preferences
from components.pruning_calibration.component import calibrate_pruning
from components.publishing.component import publish
from pipelines.settings import configure
from pipelines.tasks import EIGHT_SHARDS, checked, embed_in_shards, outputs_of


@dsl.pipeline(
    name="onevision-nightly-refresh",
    description="Take a day in, improve the champion's bundle or leave it alone.",
)
def nightly_refresh(
    snapshot: str,
    champion: str,
    recipe: str = "quickstart",
    overrides: list[str] = [],  # noqa: B006  (KFP reads the default; nothing changes it)
    shards: list[str] = EIGHT_SHARDS,
) -> None:
    """Nightly refresh.

    Args:
        snapshot: the day: folder or `gs://` prefix of a snapshot that reaches to its end.
        champion: the bundle store whose champion is refreshed: a folder or `gs://` prefix.
        recipe: packaged name of the recipe.
        overrides: `section.key=value` over the recipe.
        shards: every shard of n as `k/n`, in which pictures are embedded.
    """
    outputs = outputs_of(recipe, overrides)
    night_of = {"store": champion, "day": snapshot, "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    closing = configure(close_night(**night_of, recipe=recipe, overrides=overrides))
    with dsl.ExitHandler(closing, name="night"):
        opened = outputs(open_champion, **night_of | {"day": checked(snapshot, champion, gpu=False)})
        night, held = opened["Output"], opened["champion"]
        with dsl.If(night != "", name="refresh"):
            asked = {"snapshot": snapshot, "snapshot_id": "", "run_date": "", "champion": held, "night": night}
            clean = outputs(validate, **asked)["clean_snapshot"]
            pairs = outputs(pair, snapshot=clean)["pairs"]
            features = outputs(materialize_features, snapshot=clean, pairs=pairs)["features"]
            encoder = embed_in_shards(outputs, shards, snapshot=clean, pairs=pairs, encoder=opened["encoder"])
            codes = {"encoder": encoder, "quantizer": opened["quantizer"]}
            semantic_ids = outputs(assign_ids, snapshot=clean, **codes, parent=opened["semantic_ids"])["semantic_ids"]
            known = {"encoder": encoder, "semantic_ids": semantic_ids, "features": features}
            warm = {"quantizer": opened["quantizer"], "parent": opened["generator"]}
            tuned = outputs(sft, snapshot=clean, pairs=pairs, **warm, **known)["generator"]
            aligned = outputs(align_preferences, pairs=pairs, generator=tuned, **known)["aligned_generator"]
            served = {"generator": aligned, "parent": opened["pruning"]}
            pruning = outputs(calibrate_pruning, snapshot=clean, pairs=pairs, **served, **known)["pruning"]
            made = {"generator_sft": tuned, "generator_aligned": aligned, "pruning": pruning} | codes | known
            measured = outputs(evaluate, snapshot=clean, pairs=pairs, **made, champion=held)["evaluation"]
            outputs(publish, snapshot=clean, evaluation=measured, bundle_store=champion, **made, night=night)
