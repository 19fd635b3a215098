"""Supervised training of the generator in three stages (method section 6).

P: pictures to the semantic ID of their product, and as the recipe mixes them in, categories to semantic IDs and back;
S1: query picture to clicked item, no user; S2: the full prompt. Stage P is replayed in S1 and S2, so that the visual
prior and new items survive.

A batch is cut into parts, by the length of its prompts: micro-batches, and the shares of processes that train together.
Each part's loss counts by its share of the batch, so that the gradient is that of the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from onevision.attention_mass import KeepRule
from onevision.checkpoint import Checkpoint
from onevision.distributed import Group, split_rows
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt, Task, concatenate
from onevision.generator.samples import Samples
from onevision.generator.token_pruning import PruningSetting
from onevision.precision import use_bf16
from onevision.quantization.gemm import fast_matmul
from onevision.schedule import one_cycle
from onevision.training_state import State, restore_training, saved_weights, training_state

MAX_GRADIENT_NORM = 1.0


@dataclass
class TrainingLog:
    """Loss and learning rate by step; what validation said at every check, and the check whose weights were kept."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    checks: dict[str, float] = field(default_factory=dict)
    check_steps: list[int] = field(default_factory=list)
    kept: str = ""

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) by name, in the order of steps."""
        checked = list(self.checks.values())[-len(self.check_steps) :] if self.check_steps else []
        return {
            "loss": list(zip(self.steps, self.loss, strict=True)),
            "learning_rate": list(zip(self.steps, self.learning_rate, strict=True)),
            "validation_found": list(zip(self.check_steps, checked, strict=True)),
        }


class GeneratorTrainer:
    """A training of a generator, in place, that can be stopped after any step and go on elsewhere.

    Args:
        item_sids: (I, L) int64 semantic IDs; item_category: (I,) category rows, -1 for none.
        validate: called at every check; returns a hit rate on validation days. The best check's weights are kept:
            clicks are few, and a generator soon learns by heart who clicked what.
        group: the processes that train together.
        tasks: what stage P asks beside its pictures, and the share of it that each has.
    """

    def __init__(
        self,
        model: Generator,
        config: GeneratorTrainingConfig,
        pictures: Samples,
        queries: Samples,
        item_sids: Tensor,
        item_category: Tensor,
        validate: Callable[[], float],
        *,
        seed: int,
        group: Group,
        tasks: Sequence[tuple[Samples, float]] = (),
    ) -> None:
        self.model, self.config, self.group, self.seed = model, config, group, seed
        self.pictures, self.tasks, self.queries = pictures, tasks, queries
        self.item_sids, self.item_category = item_sids, item_category
        self.validate = validate
        self.rng = np.random.default_rng([seed, 2])
        sharpness = [model.log_look, model.log_taste]
        others = [p for n, p in model.named_parameters() if p.requires_grad and n not in ("log_look", "log_taste")]
        groups = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": sharpness, "weight_decay": 0.0, "lr": 10 * config.learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        stages = {"P": config.steps_visual, "S1": config.steps_cooccurrence, "S2": config.steps_personal}
        self.plan = [(stage, step, steps) for stage, steps in stages.items() for step in range(steps)]
        self.schedule = one_cycle(self.optimizer, len(self.plan), most_rising=50)
        self.log = TrainingLog()
        self.best: dict[str, Tensor] = {}
        self.done = 0

    def run(self, checkpoint: Checkpoint) -> TrainingLog:
        """P, S1 and S2, from the checkpoint if there is one; the model is left with the best check's weights."""
        saved = checkpoint.load()
        if saved:
            self._restore(saved)
        self.group.require_equal(self.done, "the step to go on from")
        every, total = self.config.checkpoint_every, len(self.plan)
        bar = tqdm(self.plan, initial=self.done, total=total, disable=None if self.group.rank == 0 else True)
        for stage, step, steps in self.plan[self.done :]:
            bar.set_description(f"sft {stage}", refresh=False)
            rate = float(self.schedule.get_last_lr()[0])
            loss = self._step(stage, step / steps)
            if self.done % max(1, total // 100) == 0:
                self.log.steps.append(self.done)
                self.log.loss.append(self.group.mean(loss))
                self.log.learning_rate.append(rate)
            self.done += 1
            if step == steps - 1 or (step + 1) % self.config.check_every == 0:
                self._check(f"{stage} {step + 1}")
            if self.group.rank == 0 and every and (self.done % every == 0 or self.done == total):
                checkpoint.save(*self._state())
            bar.update()
        bar.close()
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.log

    def _check(self, name: str) -> None:
        """Ask validation days, without dropout, and remember the weights if these are the best so far."""
        self.model.eval()
        best = max(self.log.checks.values(), default=-1.0)
        self.log.checks[name] = self.validate()
        self.log.check_steps.append(self.done)
        if self.log.checks[name] > best:
            self.best, self.log.kept = copy.deepcopy(self.model.state_dict()), name

    def _state(self) -> State:
        """Everything that the next step depends on."""
        tensors, rest = training_state(self.model.state_dict(), self.optimizer, self.schedule, self.group.device)
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        return tensors, rest | {"done": self.done, "random": self.rng.bit_generator.state, "log": asdict(self.log)}

    def _restore(self, state: State) -> None:
        self.model.load_state_dict(saved_weights(state))
        restore_training(state, self.optimizer, self.schedule, self.group.device)
        self.best = saved_weights(state, "best")
        self.rng.bit_generator.state = state[1]["random"]
        self.log = TrainingLog(**state[1]["log"])
        self.done = state[1]["done"]

    def _batch(self, stage: str) -> tuple[Prompt, Tensor, Tensor]:
        config, rng = self.config, self.rng
        size = config.batch_size
        if stage == "P":
            return self._visual(size)
        replay = round(size * config.replay_share)
        prompt, item, weight = self.queries.draw(size - replay, 0.0, rng)
        hidden = torch.from_numpy(rng.random(len(prompt)) < config.history_dropout)
        prompt = prompt.without_user(None if stage == "S1" else hidden)
        if not replay:
            return prompt, item, weight
        old_prompt, old_item, old_weight = self._visual(replay)
        # Half of the replay is asked what was clicked, or new items would be learnt as what nobody clicks.
        old_prompt.task[: replay // 2] = int(Task.CLICKED)
        return concatenate([prompt, old_prompt]), torch.cat([item, old_item]), torch.cat([weight, old_weight])

    def _visual(self, size: int) -> tuple[Prompt, Tensor, Tensor]:
        """Samples of stage P: pictures first, then each task's share of them."""
        counts = [int(size * share) for _, share in self.tasks]
        drawn = [self.pictures.draw(size - sum(counts), self.config.view_mix, self.rng)]
        drawn += [task.draw(count, 0.0, self.rng) for (task, _), count in zip(self.tasks, counts, strict=True)]
        prompt, item, weight = zip(*drawn, strict=True)
        return concatenate(prompt), torch.cat(item), torch.cat(weight)

    def _pruning(self, stage: str, progress: float) -> KeepRule | None:
        """Some batches of the last third of S2 are read with pruned image tokens, so that pruning is no surprise."""
        if stage != "S2" or progress < 2 / 3 or self.rng.random() >= self.config.token_dropout:
            return None
        return PruningSetting(mass=float(self.rng.uniform(0.4, 1.0))).keep

    def _step(self, stage: str, progress: float) -> Tensor:
        """One update; this process's part of the loss, whose mean over the processes is the batch's."""
        group, device = self.group, self.group.device
        self.model.train()
        prompt, item, weight = self._batch(stage)
        pruning = self._pruning(stage, progress)
        if group.size > 1:  # every process drops out on its own
            torch.manual_seed(int(np.random.SeedSequence([self.seed, self.done, group.rank]).generate_state(1)[0]))
        target = self.item_sids[item]
        category = self.item_category[item].masked_fill(~prompt.shows_product(), -1)  # it is all that they show
        whole, known = weight.sum(), (category >= 0).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for rows in self._parts(prompt):
            with fast_matmul():
                with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(self.config.precision, device)):
                    log_p, memory = self.model(prompt.take(rows).to(device), target[rows].to(device), pruning)
                of_batch = group.size * (weight[rows].sum() / whole).item()
                loss = of_batch * sid_loss(log_p, target[rows].to(device), weight[rows].to(device))
                here = category[rows]
                if (here >= 0).any():
                    of_known = group.size * ((here >= 0).sum() / known).item()
                    guess = F.cross_entropy(memory.category_logits, here.to(device), ignore_index=-1)
                    loss = loss + self.config.category_weight * (of_known * guess)
                loss.backward()
            total += loss.detach()
        group.average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        return total

    def _parts(self, prompt: Prompt) -> Iterator[Tensor]:
        """Rows of each micro-batch of this process: prompts of like length, so that little is padded."""
        order = torch.arange(len(prompt))
        if self.group.size * self.config.micro_batches > 1:
            order = prompt.lengths().argsort(stable=True)[self.group.rank :: self.group.size]
        bounds = split_rows(len(order), self.config.micro_batches)
        for start, end in pairwise(bounds):
            if end > start:
                yield order[start:end]


def sid_loss(log_p: list[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over samples of -log pi(SID), 0 if none counts: `log_p` a level (B, K_l), `target` (B, L)."""
    parts = [F.nll_loss(level, target[:, n], reduction="none") for n, level in enumerate(log_p)]
    return (torch.stack(parts).sum(0) * weight).sum() / weight.sum().clamp_min(1e-9)
