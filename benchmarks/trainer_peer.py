"""The generator behind `transformers.Trainer`: the peer of bench_training.py."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from onevision.generator.dropout import Dropout
from onevision.generator.prompts import Prompt
from onevision.generator.training import MAX_GRADIENT_NORM, GeneratorTrainer, sid_loss


class WithLoss(nn.Module):
    """The same generator as a model that returns its loss, with `torch.nn.Dropout`."""

    def __init__(self, trainer: GeneratorTrainer) -> None:
        super().__init__()
        self.generator, self.category_weight = trainer.model, trainer.config.category_weight
        for module in self.generator.modules():
            for name, child in module.named_children():
                if isinstance(child, Dropout):
                    setattr(module, name, nn.Dropout(child.p))

    def forward(self, prompt: dict[str, Tensor], target: Tensor, weight: Tensor, category: Tensor) -> dict[str, Tensor]:
        """Loss of a batch of S2."""
        log_p, memory = self.generator(Prompt(**prompt), target)
        guess = F.cross_entropy(memory.category_logits, category)
        return {"loss": sid_loss(log_p, target, weight) + self.category_weight * guess}


class SameBatch(Dataset):
    """The batch that a training draws next, at every step anew."""

    def __init__(self, trainer: GeneratorTrainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.random = trainer.rng.bit_generator.state

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        self.trainer.rng.bit_generator.state = self.random
        prompt, item, weight = self.trainer._batch("S2")
        target, category = self.trainer.item_sids[item], self.trainer.item_category[item]
        return {"prompt": vars(prompt), "target": target, "weight": weight, "category": category}


class StepSeconds(TrainerCallback):
    """CPU seconds of every step but the first: its batch, its update, and what the `Trainer` does beside."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.process_time())

    def best(self) -> float:
        return min(b - a for a, b in zip(self.ended[:-1], self.ended[1:], strict=True))


def make_peer(trainer: GeneratorTrainer, steps: int, folder: str) -> tuple[Trainer, StepSeconds]:
    """A `Trainer` of the same model, batch and loss; everything that is not named here is its default."""
    seconds = StepSeconds()
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=1,  # an example is a whole batch
        learning_rate=trainer.config.learning_rate,
        max_grad_norm=MAX_GRADIENT_NORM,
        bf16=trainer.config.precision == "bf16",
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    batches = SameBatch(trainer, steps)
    peer = Trainer(
        WithLoss(trainer), arguments, data_collator=lambda rows: rows[0], train_dataset=batches, callbacks=[seconds]
    )
    peer.remove_callback(PrinterCallback)
    return peer, seconds


def trainer_figures(trainer: GeneratorTrainer, repeats: int) -> tuple[float, int]:
    """CPU seconds of the best of several steps, and floating-point operations of one."""
    with tempfile.TemporaryDirectory() as folder:
        peer, seconds = make_peer(trainer, repeats + 1, folder)
        peer.train()
    batch = SameBatch(trainer, 1)[0]
    with FlopCounterMode(display=False) as counter:
        peer.model(**batch)["loss"].backward()
    return seconds.best(), counter.get_total_flops()
