"""Component of the stage `calibrate-pruning`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def calibrate_pruning(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    semantic_ids: Input[Dataset],
    features: Input[Dataset],
    generator: Input[Model],
    recipe: str,
    overrides: list[str],
    pruning: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    parent: Input[Artifact] = None,
) -> None:
    """Choose the cheapest search that keeps the hit rates: early opening, beam margin, histories, tokens, patches."""
    from onevision.task import run_task

    run_task(
        "calibrate-pruning",
        {
            "snapshot": snapshot.path,
            "pairs": pairs.path,
            "encoder": encoder.path,
            "semantic_ids": semantic_ids.path,
            "features": features.path,
            "generator": generator.path,
            "parent": parent.path if parent else "",
        },
        pruning,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
