"""Component of the stage `publish`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def publish(
    snapshot: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    semantic_ids: Input[Dataset],
    features: Input[Dataset],
    generator_sft: Input[Model],
    generator_aligned: Input[Model],
    pruning: Input[Artifact],
    evaluation: Input[Artifact],
    bundle_store: str,
    recipe: str,
    overrides: list[str],
    bundle: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    night: str = "",
) -> None:
    """Gate the challenger, assemble the bundle, and promote it in the bundle store."""
    from onevision.task import run_task

    run_task(
        "publish",
        {
            "snapshot": snapshot.path,
            "encoder": encoder.path,
            "quantizer": quantizer.path,
            "semantic_ids": semantic_ids.path,
            "features": features.path,
            "generator_sft": generator_sft.path,
            "generator_aligned": generator_aligned.path,
            "pruning": pruning.path,
            "evaluation": evaluation.path,
        },
        bundle,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        parameters={"store": bundle_store, "night": night},
        night=night,
    )
