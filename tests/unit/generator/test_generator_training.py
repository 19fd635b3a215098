import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.generators import TRAINING, make_catalogue, make_generator, make_queries, make_trainer

from onevision.checkpoint import Checkpoint
from onevision.generator import training
from onevision.generator.prompts import PromptBuilder, Task
from onevision.generator.samples import query_samples
from onevision.generator.training import GeneratorTrainer, sid_loss

CATALOGUE, QUANTIZER = make_catalogue()
ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """Ends a training in the middle, as a lost machine does."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoint", "this")


def assert_trained_alike(weights: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding, but for the biases of keys: they change nothing, and Adam makes steps of their rounding."""
    for name, value in weights.items():
        if not name.endswith("key_value.bias"):
            torch.testing.assert_close(other[name], value, atol=5e-4, rtol=5e-4, msg=name)


def weights(trainer: GeneratorTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def test_the_best_check_is_kept_and_not_the_last(checkpoint: Checkpoint, tmp_path: Path) -> None:
    best = make_trainer([0.1, 0.5, 0.2, 0.3, 0.4])
    log = best.run(checkpoint)
    assert list(log.checks) == ["P 2", "P 4", "S1 2", "S2 2", "S2 4"]
    assert log.kept == "P 4"
    last = make_trainer([0.1, 0.2, 0.3, 0.4, 0.5])
    assert last.run(Checkpoint(tmp_path / "other", "this")).kept == "S2 4"
    assert not torch.equal(weights(best), weights(last))


def test_checks_are_made_without_dropout(checkpoint: Checkpoint) -> None:
    trainer = make_trainer([])
    seen: list[bool] = []

    def validate() -> float:
        seen.append(trainer.model.training)
        return 0.0

    trainer.validate = validate
    trainer.run(checkpoint)
    assert seen == [False] * 5


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    trained = []
    for n, seed in enumerate((1, 1, 2)):
        trainer = make_trainer([0.0] * 4 + [1.0], seed=seed)
        trainer.run(Checkpoint(tmp_path / str(n), "this"))
        trained.append(weights(trainer))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("kill_at", [3, 7, 9])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(kill_at: int, tmp_path: Path) -> None:
    answers = [0.1, 0.4, 0.2, 0.3, 0.5]
    whole = make_trainer(answers)
    log = whole.run(Checkpoint(tmp_path / "whole", "this"))
    killed = make_trainer(answers)
    draw = killed._batch

    def batch(stage: str) -> object:
        if killed.done == kill_at:
            raise Killed
        return draw(stage)

    killed._batch = batch  # type: ignore[assignment]
    with pytest.raises(Killed):
        killed.run(Checkpoint(tmp_path / "killed", "this"))
    checked = kill_at // 2  # a check and a checkpoint every two steps
    resumed = make_trainer(answers[checked:], seed=5)
    assert resumed.run(Checkpoint(tmp_path / "killed", "this")) == log
    assert torch.equal(weights(resumed), weights(whole))


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = (make_trainer([0.0] * 4 + [1.0], dropout=0.0, micro_batches=n) for n in (1, 3))
    losses = [torch.tensor(t.run(Checkpoint(tmp_path / str(id(t)), "this")).loss) for t in (whole, parts)]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    assert_trained_alike(whole.model.state_dict(), parts.model.state_dict())


def test_micro_batches_hold_prompts_of_like_length() -> None:
    trainer = make_trainer([], micro_batches=3, replay_share=0.5)
    prompt = trainer._batch("S2")[0]
    parts = [prompt.lengths()[rows] for rows in trainer._parts(prompt)]
    assert sum(map(len, parts)) == len(prompt)
    assert all(a.max() <= b.min() for a, b in pairwise(parts))
    assert parts[0].max() < parts[-1].max()


def test_bf16_trains_nearly_the_same(tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = make_trainer([0.0] * 5, dropout=0.0, precision=precision)
        losses.append(torch.tensor(trainer.run(Checkpoint(tmp_path / precision, "this")).loss))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02)
    assert not torch.equal(losses[0], losses[1])


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests/support/sft_worker.py"), str(tmp_path)]
    # Names of the machine may lead to an interface that does not reach it.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    trainer = make_trainer([0.0] * 4 + [1.0], dropout=0.0)
    loss = torch.tensor(trainer.run(Checkpoint(tmp_path / "alone", "this")).loss)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    for shared in (first, second):
        torch.testing.assert_close(shared["loss"], loss, atol=1e-4, rtol=1e-4)
        assert_trained_alike(trainer.model.state_dict(), shared)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stage_s1_sees_no_user_and_s2_does() -> None:
    trainer = make_trainer([], replay_share=0.0, history_dropout=0.0)
    assert (trainer._batch("S1")[0].history == -1).all()
    assert (trainer._batch("S2")[0].history >= 0).any()


def test_histories_are_hidden_as_often_as_the_recipe_says() -> None:
    shares = []
    for share in (0.0, 0.5, 1.0):
        trainer = make_trainer([], replay_share=0.0, history_dropout=share, batch_size=400)
        prompt = trainer._batch("S2")[0]
        shares.append(((prompt.segment == 0) & (prompt.lengths() == 0)).float().mean().item())
    nobody, some, everybody = shares
    assert everybody == 1.0
    assert nobody < 0.5
    assert some == pytest.approx((1 + nobody) / 2, abs=0.08)


def test_views_are_mixed_in_stage_p_and_in_replay() -> None:
    for stage, replayed in (("P", slice(None)), ("S1", slice(4, 8)), ("S2", slice(4, 8))):
        trainer = make_trainer([], replay_share=0.5, batch_size=8)
        trainer.pictures.partner = np.array([1, 2, 3, 4, 5, 0])
        vectors = trainer.pictures.prompts.embedding.clone()
        found = torch.cat([trainer._batch(stage)[0].embedding[replayed] for _ in range(20)])
        as_they_are = (found[:, None] - vectors).norm(dim=2).min(1).values < 1e-4
        assert 0.3 < as_they_are.float().mean() < 0.7


@pytest.mark.parametrize("share", [0.0, 0.1, 2.0])
def test_the_loss_is_that_of_codes_and_a_share_of_that_of_categories(share: float) -> None:
    trainer = make_trainer([], dropout=0.0, replay_share=0.0, category_weight=share)
    prompt, item, weight = batch = trainer._batch("S2")
    trainer.item_category = torch.arange(len(trainer.item_category)) % 3
    trainer.item_category[item[0]] = -1
    trainer._batch = lambda stage: batch  # type: ignore[method-assign,assignment]
    target, category = trainer.item_sids[item], trainer.item_category[item]
    known = category >= 0
    assert 0 < known.sum() < len(known)
    with torch.no_grad():
        log_p, memory = trainer.model(prompt, target)
        codes = sid_loss(log_p, target, weight)
        categories = torch.nn.functional.cross_entropy(memory.category_logits[known], category[known])
    assert trainer._step("S2", 0.0).item() == pytest.approx((codes + share * categories).item(), rel=1e-4)
    gradient = trainer.model.category_head.weight.grad
    assert gradient is not None
    assert (gradient.abs().max() > 0) == (share > 0)


def test_the_gradient_is_clipped_to_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    for most in (1e9, 0.01):
        monkeypatch.setattr(training, "MAX_GRADIENT_NORM", most)
        trainer = make_trainer([], dropout=0.0)
        trainer._step("S2", 0.0)
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    free, clipped = norms
    assert free > 0.1
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_replay_is_part_of_s1_and_s2_and_half_of_it_is_asked_for_clicks() -> None:
    trainer = make_trainer([], replay_share=0.5)
    prompt, item, weight = trainer._batch("S2")
    assert len(prompt) == len(item) == len(weight) == 8
    assert prompt.task.tolist().count(int(Task.OWN_ID)) == 2


def test_orders_weigh_more_than_clicks() -> None:
    queries = make_queries(CATALOGUE, 2)
    queries.clicked, queries.ordered = [["i001", "i002"], ["gone"]], [["i002"], []]
    samples = query_samples(queries, PromptBuilder(make_generator(QUANTIZER).config, CATALOGUE), CATALOGUE, TRAINING)
    assert samples.row.tolist() == [0, 0]
    assert samples.item.tolist() == [1, 2]
    assert samples.weight.tolist() == [1.0, TRAINING.order_weight]
