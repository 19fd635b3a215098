"""Component of the stage `align-preferences`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def align_preferences(
    pairs: Input[Dataset],
    encoder: Input[Model],
    semantic_ids: Input[Dataset],
    features: Input[Dataset],
    generator: Input[Model],
    recipe: str,
    overrides: list[str],
    aligned_generator: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Align the generator with preferences, gated against its parent."""
    from onevision.task import run_task

    run_task(
        "align-preferences",
        {
            "pairs": pairs.path,
            "encoder": encoder.path,
            "semantic_ids": semantic_ids.path,
            "features": features.path,
            "generator": generator.path,
        },
        aligned_generator,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
