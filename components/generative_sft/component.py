"""Component of the stage `sft`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def sft(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    semantic_ids: Input[Dataset],
    features: Input[Dataset],
    recipe: str,
    overrides: list[str],
    generator: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    parent: Input[Model] = None,
) -> None:
    """Train the generator: visual semantics, co-occurrence, personalised fine-tuning."""
    from onevision.task import run_task

    run_task(
        "sft",
        {
            "snapshot": snapshot.path,
            "pairs": pairs.path,
            "encoder": encoder.path,
            "quantizer": quantizer.path,
            "semantic_ids": semantic_ids.path,
            "features": features.path,
            "parent": parent.path if parent else "",
        },
        generator,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
