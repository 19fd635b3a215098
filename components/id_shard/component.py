"""Component of the stage `assign-shard`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def assign_shard(
    snapshot: Input[Dataset],
    encoder: Input[Model],
    quantizer: Input[Model],
    shard: str,
    recipe: str,
    overrides: list[str],
    id_shard: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Vote the codes of one shard of the items."""
    from onevision.task import run_task

    run_task(
        "assign-shard",
        {"snapshot": snapshot.path, "encoder": encoder.path, "quantizer": quantizer.path},
        id_shard,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        parameters={"shard": shard},
    )
