"""Compile the pipelines: for a target, as packages that KFP takes or as Kubernetes resources.

`python -m pipelines.compile` writes the packages that are committed, those of the target `local`. The same sources give
the same bytes.
"""

import hashlib
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.graph_component import GraphComponent

from components import BASE_IMAGE
from onevision.errors import OneVisionError
from pipelines.full_training import full_training, sharded_training
from pipelines.nightly_refresh import nightly_refresh
from pipelines.targets import current, placed

COMPILED = Path(__file__).parent / "compiled"
PIPELINES = {
    "full_training": full_training,
    "sharded_training": sharded_training,
    "nightly_refresh": nightly_refresh,
}
VERSION_DIGITS = 12


def compile_pipelines(folder: Path = COMPILED, **placement: Any) -> list[Path]:
    """Write `<pipeline>.yaml` for every pipeline into `folder`, and return the files; see `compile_pipeline`."""
    return [compile_pipeline(name, folder / f"{name}.yaml", **placement) for name in PIPELINES]


def compile_pipeline(
    name: str,
    file: Path,
    *,
    target: str = "local",
    image: str = BASE_IMAGE,
    nodes: int = 1,
    scratch: str = "",
    namespace: str = "",
) -> Path:
    """Write a pipeline's package.

    Args:
        target: a name of `pipelines.targets.TARGETS`.
        image: of every task; by default `$ONEVISION_IMAGE`.
        nodes, scratch: machines that train together, and the `gs://` prefix where they leave what they made.
        namespace: where not empty, the file holds a `Pipeline` and a `PipelineVersion` of this namespace. Versions
            cannot be changed in a cluster: they are named by the SHA-256 of their package.

    Raises:
        OneVisionError: no such pipeline or target, or an image that it does not take.
    """
    if name not in PIPELINES:
        raise OneVisionError(f"no pipeline {name!r}; there are {', '.join(PIPELINES)}")
    pipeline = trace(PIPELINES[name], target, image, nodes, scratch)
    file.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(file))
    if namespace:
        options = KubernetesManifestOptions(
            pipeline_name=pipeline.name,
            pipeline_version_name=f"{pipeline.name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:VERSION_DIGITS]}",
            namespace=namespace,
            include_pipeline_manifest=True,
        )
        compiler.Compiler().compile(
            pipeline, str(file), kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )
    return file


def trace(
    pipeline: GraphComponent, target: str, image: str = BASE_IMAGE, nodes: int = 1, scratch: str = ""
) -> GraphComponent:
    """The pipeline with its tasks configured for a target; as it is where they are already."""
    default = current()
    with placed(target, image, nodes, scratch):
        if current() == default:
            return pipeline
        return dsl.pipeline(name=pipeline.name, description=pipeline.description)(pipeline.pipeline_func)


if __name__ == "__main__":
    for written in compile_pipelines():
        print(written)
