"""Component `close-night`: the exit handler of the nightly refresh."""

from kfp import dsl
from kfp.dsl import HTML, Output, PipelineTaskFinalStatus

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def close_night(
    store: str,
    day: str,
    run: str,
    recipe: str,
    overrides: list[str],
    status: PipelineTaskFinalStatus,
    report: Output[HTML],
) -> None:
    """Say how the night ended and what to do next, and hand the store back."""
    from onevision.task import end_night

    end_night(store, day, run, recipe=recipe, overrides=overrides, succeeded=status.state == "SUCCEEDED", page=report)
