"""Component of the stage `open-champion`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Metrics, Model, Output

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def open_champion(
    store: str,
    day: str,
    run: str,
    recipe: str,
    overrides: list[str],
    champion: Output[Model],
    encoder: Output[Model],
    quantizer: Output[Model],
    semantic_ids: Output[Dataset],
    generator: Output[Model],
    pruning: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
) -> str:
    """Begin a night: take the store's lease, and fetch the champion that the night starts from."""
    from onevision.task import hand_out, night_of, run_task

    began = run_task(
        "open-champion",
        {},
        champion,
        recipe=recipe,
        overrides=overrides,
        metrics=metrics,
        page=report,
        parameters={"champion": store, "snapshot": day, "run": run},
    )
    parts = {"encoder": encoder, "quantizer": quantizer, "semantic_ids": semantic_ids, "generator": generator}
    hand_out(champion, parts | {"pruning": pruning}, store)
    return str(night_of(store, day, run, recipe=recipe, overrides=overrides)) if began.counts["refresh"] else ""
