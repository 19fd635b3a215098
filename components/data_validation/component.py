"""Component of the stage `validate`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def validate(
    snapshot: str,
    snapshot_id: str,
    run_date: str,
    recipe: str,
    overrides: list[str],
    clean_snapshot: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> None:
    """Check a snapshot against the contract and set bad rows aside. A new run date is a new key for KFP's cache."""
    from onevision.task import run_task

    run_task(
        "validate",
        {"snapshot": snapshot},
        clean_snapshot,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        snapshot_id=snapshot_id,
        lineage={"run_date": run_date},
    )
