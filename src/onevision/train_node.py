"""What one machine of a `TrainJob` does: fetch the inputs, run the stage under `torchrun`, and the first one sends it.

Kubeflow Trainer tells `torchrun` through its `PET_` variables how many machines there are and which one this is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onevision.data.store import download, upload
from onevision.errors import OneVisionError


def run(
    stage: str, inputs: Sequence[str], options: Sequence[str], out: str, recipe: str, overrides: Sequence[str]
) -> None:
    """Run a stage whose inputs (`name=place`) and output are in the object store; its options are `name=value`.

    Raises:
        OneVisionError: an input that is not there, or a stage that failed.
    """
    with tempfile.TemporaryDirectory(prefix="onevision-node-") as scratch:
        words = [f"--{option}" for option in options]
        for word in inputs:
            name, _, place = word.partition("=")
            words += [f"--{name.replace('_', '-')}", str(download(place, Path(scratch) / name).path)]
        made = Path(scratch) / "out"
        command = ["-m", "onevision", stage, *words, "--out", str(made), "--recipe", recipe, *overrides]
        code = subprocess.run([sys.executable, "-m", "torch.distributed.run", *command]).returncode
        if code:
            raise OneVisionError(f"stage {stage} ended with exit code {code}")
        if os.environ.get("PET_NODE_RANK", "0") == "0":
            upload(made, out)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's words; options may stand between the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=PLACE")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", required=True)
    parser.add_argument("--recipe", required=True)
    return parser.parse_intermixed_args(words)


def main() -> None:
    """The command of a machine; a mistake is one message and exit code 1."""
    asked = parse()
    try:
        run(asked.stage, asked.input, asked.option, asked.out, asked.recipe, asked.overrides)
    except OneVisionError as error:
        print(f"onevision: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
