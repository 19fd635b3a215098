"""Supervised training of the generator in three stages (method section 6).

P: pictures to their own semantic ID; S1: query picture to clicked item, no user; S2: the full prompt. Stage P is
replayed in S1 and S2, so that the visual prior and new items survive.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.modelling import Generator
from onevision.generator.prompts import Prompt, Task, concatenate
from onevision.generator.samples import Samples
from onevision.generator.token_pruning import KeepRule, PruningSetting

CATEGORY_LOSS = 0.1


@dataclass
class TrainingLog:
    """Loss by step, what validation said at every check, and the check whose weights were kept."""

    steps: list[int]
    loss: list[float]
    checks: dict[str, float]
    kept: str = ""


class GeneratorTrainer:
    """Trains a generator in place.

    Args:
        item_sids: (I, L) int64 semantic IDs; item_category: (I,) category rows, -1 for none.
        validate: called at every check; returns a hit rate on validation days. The best check's weights are kept:
            clicks are few, and a generator soon learns by heart who clicked what.
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
        seed: int,
    ) -> None:
        self.model, self.config = model, config
        self.pictures, self.queries = pictures, queries
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

    def train(self) -> TrainingLog:
        """Run P, S1 and S2."""
        config = self.config
        stages = (("P", config.steps_visual), ("S1", config.steps_cooccurrence), ("S2", config.steps_personal))
        total = sum(steps for _, steps in stages)
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, peaks, total_steps=total + 1, pct_start=min(0.1, 50 / max(total, 1)), cycle_momentum=False
        )
        log = TrainingLog([], [], {})
        best: tuple[float, dict[str, Tensor]] | None = None
        done = 0
        for name, steps in stages:
            for step in tqdm(range(steps), desc=f"sft {name}", disable=None):
                self.model.train()
                loss = self._step(*self._batch(name), self._pruning(name, step / steps))
                schedule.step()
                if done % max(1, total // 100) == 0:
                    log.steps.append(done)
                    log.loss.append(loss)
                done += 1
                if step == steps - 1 or (step + 1) % config.check_every == 0:
                    check = f"{name} {step + 1}"
                    log.checks[check] = self.validate()
                    if best is None or log.checks[check] > best[0]:
                        best, log.kept = (log.checks[check], copy.deepcopy(self.model.state_dict())), check
        if best is not None:
            self.model.load_state_dict(best[1])
        self.model.eval()
        return log

    def _batch(self, stage: str) -> tuple[Prompt, Tensor, Tensor]:
        config, rng = self.config, self.rng
        size = config.batch_size
        if stage == "P":
            return self.pictures.draw(size, config.view_mix, rng)
        replay = round(size * config.replay_share)
        prompt, item, weight = self.queries.draw(size - replay, 0.0, rng)
        hidden = torch.from_numpy(rng.random(len(prompt)) < config.history_dropout)
        prompt = prompt.without_user(None if stage == "S1" else hidden)
        if not replay:
            return prompt, item, weight
        old_prompt, old_item, old_weight = self.pictures.draw(replay, config.view_mix, rng)
        # Half of the replay is asked what was clicked, or new items would be learnt as what nobody clicks.
        old_prompt.task[: replay // 2] = int(Task.CLICKED)
        return concatenate([prompt, old_prompt]), torch.cat([item, old_item]), torch.cat([weight, old_weight])

    def _pruning(self, stage: str, progress: float) -> KeepRule | None:
        """Some batches of the last third of S2 are read with pruned image tokens, so that pruning is no surprise."""
        if stage != "S2" or progress < 2 / 3 or self.rng.random() >= self.config.token_dropout:
            return None
        return PruningSetting(mass=float(self.rng.uniform(0.4, 1.0))).keep

    def _step(self, prompt: Prompt, item: Tensor, weight: Tensor, pruning: KeepRule | None) -> float:
        target = self.item_sids[item]
        log_p, memory = self.model(prompt, target, pruning)
        loss = sid_loss(log_p, target, weight)
        category = self.item_category[item]
        if (category >= 0).any():
            loss = loss + CATEGORY_LOSS * F.cross_entropy(memory.category_logits, category, ignore_index=-1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def sid_loss(log_p: list[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over samples of -log pi(SID): `log_p` a level (B, K_l), `target` (B, L)."""
    parts = [F.nll_loss(level, target[:, n], reduction="none") for n, level in enumerate(log_p)]
    return (torch.stack(parts).sum(0) * weight).sum() / weight.sum()
