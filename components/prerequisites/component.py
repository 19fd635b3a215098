"""Component `prerequisites`: the first task of every pipeline."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prerequisites(snapshot: str, store: str, variables: list[str], services: list[str], gpu: bool) -> str:
    """Check what the pipeline needs, and hand the snapshot's place on to the tasks that may then begin."""
    from onevision.task import require

    require(snapshot=snapshot, store=store, variables=variables, services=services, gpu=gpu)
    return snapshot
