"""Component of the stage `merge-ids`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def merge_ids(
    snapshot: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    shards: Input[list[Dataset]],
    recipe: str,
    overrides: list[str],
    semantic_ids: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Put shards of items together: buckets and the prefix trie."""
    from onevision.task import run_task

    run_task(
        "merge-ids",
        {
            "snapshot": snapshot.path,
            "encoder": encoder.path,
            "quantizer": quantizer.path,
            "shards": [shard.path for shard in shards],
        },
        semantic_ids,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
