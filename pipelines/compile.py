"""Compile the pipelines to the committed YAML: `python -m pipelines.compile [folder]`.

The image of every task is `$ONEVISION_IMAGE` (default `components.BASE_IMAGE`). The same sources give the same bytes.
"""

import sys
from pathlib import Path

from kfp import compiler

from pipelines.full_training import full_training, sharded_training
from pipelines.nightly_refresh import nightly_refresh

COMPILED = Path(__file__).parent / "compiled"
PIPELINES = {
    "full_training": full_training,
    "sharded_training": sharded_training,
    "nightly_refresh": nightly_refresh,
}


def compile_pipelines(folder: Path = COMPILED) -> list[Path]:
    """Write `<pipeline>.yaml` for every pipeline into `folder`, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        file = folder / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        files.append(file)
    return files


if __name__ == "__main__":
    for written in compile_pipelines(*(Path(argument) for argument in sys.argv[1:2])):
        print(written)
