"""Component of the stage `evaluate`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def evaluate(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    semantic_ids: Input[Dataset],
    features: Input[Dataset],
    generator_sft: Input[Model],
    generator_aligned: Input[Model],
    pruning: Input[Artifact],
    recipe: str,
    overrides: list[str],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    champion: Input[Model] = None,
) -> None:
    """Measure dense neighbours, the cascade and the generators on the same held-out queries."""
    from onevision.task import run_task

    run_task(
        "evaluate",
        {
            "snapshot": snapshot.path,
            "pairs": pairs.path,
            "encoder": encoder.path,
            "quantizer": quantizer.path,
            "semantic_ids": semantic_ids.path,
            "features": features.path,
            "generator_sft": generator_sft.path,
            "generator_aligned": generator_aligned.path,
            "pruning": pruning.path,
            "champion": champion.path if champion else "",
        },
        evaluation,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
