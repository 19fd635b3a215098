"""Component of the stage `assign-ids`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def assign_ids(
    snapshot: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    recipe: str,
    overrides: list[str],
    semantic_ids: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    parent: Input[Dataset] = None,
) -> None:
    """Give every item its semantic ID; build buckets and the prefix trie."""
    from onevision.task import run_task

    run_task(
        "assign-ids",
        {
            "snapshot": snapshot.path,
            "encoder": encoder.path,
            "quantizer": quantizer.path,
            "parent": parent.path if parent else "",
        },
        semantic_ids,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
