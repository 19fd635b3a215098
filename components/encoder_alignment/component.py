"""Component of the stage `align`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def align(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    recipe: str,
    overrides: list[str],
    encoder: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    embed: str = "all",
) -> None:
    """Train the image encoder so that views of one product meet, and embed every image."""
    from onevision.task import run_task

    run_task(
        "align",
        {"snapshot": snapshot.path, "pairs": pairs.path},
        encoder,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        parameters={"embed": embed},
    )
