"""Component of the stage `materialize-features`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def materialize_features(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    recipe: str,
    overrides: list[str],
    features: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    earlier: Input[Dataset] = None,
) -> None:
    """Build user sequences through Feast: rows for training, a store for serving."""
    from onevision.task import run_task

    run_task(
        "materialize-features",
        {"snapshot": snapshot.path, "pairs": pairs.path, "earlier": earlier.path if earlier else ""},
        features,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
    )
