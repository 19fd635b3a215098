"""Two processes under `torchrun` train as one does on the same batches."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from onevision.artifacts import open_artifact
from onevision.checkpoint import Checkpoint
from onevision.encoder import stage
from onevision.encoder.distributed import split_products
from onevision.encoder.training import EncoderTraining, LossCurve
from onevision.errors import OneVisionError
from onevision.runner import run_stage

ROOT = Path(__file__).parents[3]
OVERRIDES = [
    "encoder.image_size=32",
    "encoder.width=8",
    "encoder.embedding_dim=16",
    "encoder.steps=6",
    "encoder.items_per_batch=7",
    "encoder.views_per_item=3",
    "encoder.precision=fp32",
    "encoder.hard_negative_share=0.3",
    "encoder.checkpoint_every=4",
]


def _two_processes(inputs: dict[str, Path], out: Path, losses: Path) -> str:
    """Run the stage by `torchrun`, and return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests/support/align_worker.py"), str(losses), "align", "--recipe", "smoke"]
    command += [f"--{name}={path}" for name, path in inputs.items()] + [f"--out={out}", *OVERRIDES]
    # Names of the machine may lead to an interface that does not reach it.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_train_as_one_does(
    tiny_snapshot: Path, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"snapshot": tiny_snapshot, "pairs": tiny_pairs}
    printed = _two_processes(inputs, tmp_path / "encoder2", tmp_path / "losses")
    assert printed.count("written to") == 1, "only process 0 writes and speaks"
    curves: list[LossCurve] = []

    class Recorded(EncoderTraining):
        def run(self, checkpoint: Checkpoint) -> LossCurve:
            curves.append(super().run(checkpoint))
            return curves[0]

    monkeypatch.setattr(stage, "EncoderTraining", Recorded)
    run_stage("align", inputs, tmp_path / "encoder1", recipe="smoke", overrides=OVERRIDES)
    alone = curves[0].values
    first, second = (json.loads((tmp_path / f"losses.{rank}").read_text()) for rank in (0, 1))
    assert set(alone) == {"loss", "infonce", "category", "circle"}
    assert len(alone["loss"]) == 6
    for name, values in alone.items():
        np.testing.assert_allclose(first[name], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(second[name], first[name], rtol=1e-6)
    one, two = (load_file(tmp_path / f"encoder{n}" / "model.safetensors") for n in (1, 2))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=2e-4, rtol=1e-3, err_msg=name)
    embedded = [load_file(tmp_path / f"encoder{n}" / "embeddings.safetensors")["embedding"] for n in (1, 2)]
    np.testing.assert_allclose(*embedded, atol=1e-4)
    assert open_artifact(tmp_path / "encoder2", "encoder").counts == open_artifact(tmp_path / "encoder1").counts


def test_only_a_stage_that_can_share_its_work_runs_in_several_processes(
    tiny_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OneVisionError, match="without torchrun"):
        run_stage("pair", {"snapshot": tiny_snapshot}, tmp_path / "pairs", recipe="smoke")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_whole_products_and_cover_the_batch(size: int) -> None:
    product = torch.tensor([4, 4, 4, 1, 1, 9, 0, 0, 0, 0, 5])
    bounds = split_products(product, size)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, 11, size + 1)
    shares = [set(product[a:b].tolist()) for a, b in pairwise(bounds)]
    assert bounds == sorted(bounds)
    assert sum(len(s) for s in shares) == 5
