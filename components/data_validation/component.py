"""Component of the stage `validate`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

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
    champion: Input[Model] = None,
    night: str = "",
) -> None:
    """Check a snapshot against the contract and set bad rows aside. A new run date is a new key for KFP's cache."""
    from onevision.task import run_task

    run_task(
        "validate",
        {"snapshot": snapshot, "champion": champion.path if champion else ""},
        clean_snapshot,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        snapshot_id=snapshot_id,
        lineage={"run_date": run_date},
        night=night,
    )
