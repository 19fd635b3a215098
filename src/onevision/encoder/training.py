"""Training of the encoder: InfoNCE, circle loss after a warm start, and the category (method section 3).

L = l1 * L_cl + l2 * L_circle + l3 * L_category
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onevision.checkpoint import Checkpoint
from onevision.distributed import Group
from onevision.encoder.circle import circle_loss
from onevision.encoder.config import EncoderConfig
from onevision.encoder.hard_negatives import LookAlikes
from onevision.encoder.infonce import info_nce
from onevision.encoder.model import Encoder
from onevision.encoder.muon import ORTHOGONAL, Muon
from onevision.encoder.sampler import Batch, TrainingViews, batches
from onevision.precision import use_bf16
from onevision.schedule import one_cycle
from onevision.training_state import State, restore_training, saved_weights, training_state

Pooled = Callable[[Batch, np.random.Generator], Tensor]


@dataclass
class LossCurve:
    """Loss values by optimiser step."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, **losses: float) -> None:
        """Append one point."""
        self.steps.append(step)
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value)


class EncoderTraining:
    """A training of an encoder, in place, that can be stopped after any step and go on elsewhere.

    Args:
        known_category: (rows,) category row of every picture's product, -1 if it has none.
        catalogue_row: (rows,) whether a picture is a catalogue view: those see their category, others predict it.
        pooled: batch, random numbers for its pictures -> the tower's pooled vectors of all its rows (n, D), with
            gradient unless the tower is frozen.
        group: the processes that train together.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: TrainingViews,
        known_category: NDArray[np.int64],
        catalogue_row: NDArray[np.bool_],
        pooled: Pooled,
        *,
        seed: int,
        group: Group,
    ) -> None:
        config = encoder.config
        self.encoder, self.pooled, self.group = encoder, pooled, group
        self.known_category, self.catalogue_row = known_category, catalogue_row
        self.rng = np.random.default_rng(seed)
        self.picture_rng = np.random.default_rng([seed, 1])
        self.optimizer = Muon(parameter_groups(encoder), weight_decay=config.weight_decay)
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.schedule = one_cycle(self.optimizer, config.steps, most_rising=20)
        self.curve = LossCurve()
        self.queue: list[int] = []
        share = config.hard_negative_share
        self.look_alikes = LookAlikes(len(views.items), config.embedding_dim, share) if share else None
        look_alike = self.look_alikes.draw if self.look_alikes else None
        self.stream = batches(views, config, self.rng, queue=self.queue, look_alike=look_alike)
        self.done = 0

    def run(self, checkpoint: Checkpoint) -> LossCurve:
        """Train to the end, from the checkpoint if there is one; the encoder is left in evaluation mode."""
        config = self.encoder.config
        saved = checkpoint.load()
        if saved:
            self._restore(saved)
        self.group.require_equal(self.done, "the step to go on from")
        self.encoder.train()
        for step in tqdm(range(self.done, config.steps), desc="align", disable=None):
            losses = self._step(step)
            self.done = step + 1
            if step % max(1, config.steps // 100) == 0 or step == config.steps - 1:
                self.curve.add(step, **{name: value.item() for name, value in losses.items()})
            if self.group.rank == 0 and config.checkpoint_every and self.done % config.checkpoint_every == 0:
                checkpoint.save(*self._state())
        self.encoder.eval()
        return self.curve

    def _step(self, step: int) -> dict[str, Tensor]:
        config, device = self.encoder.config, self.group.device
        batch = next(self.stream)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(config.precision, device)):
            features = self.pooled(batch, self.picture_rng)
        known = self.known_category[batch.rows]
        hidden = self.rng.random(len(batch.rows)) < config.category_dropout
        shown = np.where(self.catalogue_row[batch.rows] & ~hidden, known, -1)
        embedding, logits = self.encoder.fuse(features, torch.from_numpy(shown).to(device))
        product, affinity = batch.product.to(device), batch.affinity.to(device)
        losses = {
            "infonce": config.infonce_weight * info_nce(embedding, affinity, self.encoder.scale),
            "category": config.category_loss_weight * _category_loss(logits, torch.from_numpy(known).to(device)),
        }
        if step >= config.circle_warmup * config.steps and config.circle_weight > 0:
            losses["circle"] = config.circle_weight * _circle(embedding, product, affinity, config)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.group.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.schedule.step()
        if self.look_alikes:
            self.look_alikes.update(batch.product, embedding)
        return {"loss": loss, **losses}

    def _weights(self) -> dict[str, Tensor]:
        """Weights that training changes: a frozen tower is left out."""
        frozen = self.encoder.tower.frozen
        return {n: v for n, v in self.encoder.state_dict().items() if not (frozen and n.startswith("tower."))}

    def _state(self) -> State:
        """Everything that the next step depends on."""
        tensors, rest = training_state(self._weights(), self.optimizer, self.schedule, self.group.device)
        if self.look_alikes:
            tensors["look_alikes"] = self.look_alikes.last
        return tensors, rest | {
            "done": self.done,
            "random": [self.rng.bit_generator.state, self.picture_rng.bit_generator.state],
            "queue": self.queue,
            "curve": asdict(self.curve),
        }

    def _restore(self, state: State) -> None:
        tensors, rest = state
        self.encoder.load_state_dict(self.encoder.state_dict() | saved_weights(state))
        restore_training(state, self.optimizer, self.schedule, self.group.device)
        if self.look_alikes:
            self.look_alikes.last = tensors["look_alikes"]
        self.rng.bit_generator.state, self.picture_rng.bit_generator.state = rest["random"]
        self.queue[:] = rest["queue"]
        self.curve = LossCurve(**rest["curve"])
        self.done = rest["done"]


def parameter_groups(encoder: Encoder) -> list[dict[str, Any]]:
    """Parameters to train with their highest learning rates.

    Layers of a tower that begins from nothing are Muon's; a backbone has its own, lower rate and stays with AdamW, as
    it was trained.
    """
    config = encoder.config
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    tower = {name: p for name, p in trained.items() if name.startswith("tower.")}
    backbone = list(tower.values()) if config.tower == "transformers" else []
    layers = [] if backbone else [p for p in tower.values() if p.ndim > 1]
    taken = {id(p) for p in (*backbone, *layers)}
    groups = [
        {"params": layers, "lr": config.learning_rate, ORTHOGONAL: True},
        {"params": [p for p in trained.values() if id(p) not in taken], "lr": config.learning_rate},
        {"params": backbone, "lr": config.tower_learning_rate},
    ]
    return [group for group in groups if group["params"]]


def _category_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=-1) if (target >= 0).any() else logits.sum() * 0


def _circle(embedding: Tensor, product: Tensor, affinity: Tensor, config: EncoderConfig) -> Tensor:
    same = product[:, None] == product[None]
    positive = same & ~torch.eye(len(product), dtype=torch.bool, device=product.device)
    # A clicked pair is neither: circle loss speaks of products, not of taste.
    negative = ~same & (affinity == 0)
    return circle_loss(embedding, positive, negative, margin=config.circle_margin, gamma=config.circle_gamma)
