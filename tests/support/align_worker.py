"""`onevision align`, run by `torchrun`: writes the losses of every step to the file that the first argument names."""

import json
import runpy
import sys
from pathlib import Path

from onevision.checkpoint import Checkpoint
from onevision.encoder import stage
from onevision.encoder.training import EncoderTraining, LossCurve
from onevision.processes import process_rank


class Recorded(EncoderTraining):
    """A training whose losses are written down, by every process for itself."""

    def run(self, checkpoint: Checkpoint) -> LossCurve:
        curve = super().run(checkpoint)
        Path(f"{sys.argv[0]}.{process_rank()}").write_text(json.dumps(curve.values))
        return curve


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    stage.EncoderTraining = Recorded  # type: ignore[misc]
    runpy.run_module("onevision.__main__", run_name="__main__", alter_sys=False)
