"""The peer of bench_training.py, `transformers.Trainer`, trains the same model by the same loss of the same batch."""

import sys
from pathlib import Path

import pytest
import torch
from support.generators import make_trainer

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from trainer_peer import make_peer, trainer_figures


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peer_has_our_loss_and_takes_a_step(precision: str, tmp_path: Path) -> None:
    ours, theirs, whole = (make_trainer([], dropout=0.0, precision=p) for p in (precision, precision, "fp32"))
    peer, seconds = make_peer(theirs, 1, str(tmp_path))
    before = {name: value.clone() for name, value in theirs.model.named_parameters()}
    loss = peer.train().training_loss
    assert loss == pytest.approx(ours._step("S2", 0.0).item(), rel=1e-5 if precision == "fp32" else 1e-3)
    assert (loss == pytest.approx(whole._step("S2", 0.0).item(), rel=1e-5)) == (precision == "fp32")
    moved = [not torch.equal(value, before[name]) for name, value in theirs.model.named_parameters()]
    assert sum(moved) > len(moved) / 2
    assert len(seconds.ended) == 1


def test_the_peer_sees_one_batch_at_every_step_and_drops_out_as_torch_does(tmp_path: Path) -> None:
    trainer = make_trainer([], dropout=0.5)
    peer, seconds = make_peer(trainer, 3, str(tmp_path))
    targets = [peer.train_dataset[step]["target"] for step in range(3)]
    assert all(torch.equal(targets[0], target) for target in targets)
    kinds = {type(module) for module in peer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {torch.nn.Dropout}
    peer.train()
    assert len(seconds.ended) == 3
    assert seconds.best() > 0


def test_operations_are_counted_with_those_of_the_backward_pass() -> None:
    trainer = make_trainer([], dropout=0.0)
    seconds, operations = trainer_figures(trainer, 1)
    linear = sum(p.numel() for layer in trainer.model.encoder for p in layer.parameters() if p.ndim == 2)
    tokens = 5 + trainer.model.config.image_tokens
    assert seconds > 0
    assert operations > 6 * linear * tokens * trainer.config.batch_size  # two forward, four backward a weight
