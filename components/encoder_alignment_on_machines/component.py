"""Component `align-on-machines`: the stage `align` as a `TrainJob`."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def align_on_machines(
    snapshot: Input[Dataset],
    pairs: Input[Dataset],
    recipe: str,
    overrides: list[str],
    scratch: str,
    image: str,
    nodes: int,
    processes: int,
    resources: dict[str, str],
    encoder: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    embed: str = "all",
) -> None:
    """Train the image encoder on several machines at once, and embed every image."""
    from onevision.task import run_job
    from onevision.train_job import Machines

    run_job(
        "align",
        {"snapshot": snapshot.uri, "pairs": pairs.uri},
        encoder,
        scratch,
        Machines(int(nodes), int(processes), image, resources),
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        options={"embed": embed},
    )
