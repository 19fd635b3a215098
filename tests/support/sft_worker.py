"""A tiny training of a generator, run by `torchrun`: every process writes its weights and losses to a folder."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from support.generators import make_trainer

from onevision.checkpoint import Checkpoint
from onevision.distributed import open_group

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with open_group() as group:
        trainer = make_trainer([0.0] * 4 + [1.0], dropout=0.0, group=group)
        log = trainer.run(Checkpoint(folder / "together", "this"))
        tensors = trainer.model.state_dict() | {"loss": torch.tensor(log.loss)}
        save_file(tensors, folder / f"{group.rank}.safetensors")
