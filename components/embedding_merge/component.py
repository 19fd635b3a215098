"""Component of the stage `merge-embeddings`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def merge_embeddings(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    shards: Input[list[Dataset]],
    recipe: str,
    overrides: list[str],
    merged_encoder: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Put embedded shards together beside their encoder."""
    from onevision.task import run_task

    run_task(
        "merge-embeddings",
        {
            "snapshot": snapshot.path,
            "pairs": pairs.path,
            "encoder": encoder.path,
            "shards": [shard.path for shard in shards],
        },
        merged_encoder,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
