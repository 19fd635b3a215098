"""Component of the stage `train-vrq`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def train_vrq(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    recipe: str,
    overrides: list[str],
    quantizer: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Train the vision-aligned residual quantiser and compare it with residual k-means."""
    from onevision.task import run_task

    run_task(
        "train-vrq",
        {"snapshot": snapshot.path, "pairs": pairs.path, "encoder": encoder.path},
        quantizer,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
