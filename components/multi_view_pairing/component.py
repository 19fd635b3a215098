"""Component of the stage `pair`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def pair(
    snapshot: Input[Dataset],
    recipe: str,
    overrides: list[str],
    pairs: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Split by time, collect queries, mine and clean positive pairs of views."""
    from onevision.task import run_task

    run_task(
        "pair",
        {"snapshot": snapshot.path},
        pairs,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
