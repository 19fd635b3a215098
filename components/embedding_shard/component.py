"""Component of the stage `embed-shard`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def embed_shard(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    encoder: Input[Model],
    shard: str,
    recipe: str,
    overrides: list[str],
    embedding_shard: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Embed one shard of a snapshot's pictures."""
    from onevision.task import run_task

    run_task(
        "embed-shard",
        {"snapshot": snapshot.path, "pairs": pairs.path, "encoder": encoder.path},
        embedding_shard,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        parameters={"shard": shard},
    )
