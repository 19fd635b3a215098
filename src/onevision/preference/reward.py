"""The reward model: what a shopper does with an item that is shown, in calibrated probabilities.

    p(click | photo, shopper, item),    p(order | click, ...),    p(order | ...) = p(click) p(order | click)

Order is supervised as the product, over everything that was shown and not only what was clicked (ESMM,
arXiv 1804.07931). It reads what the choice model reads of the pair, the choice itself, and how the item has done so
far; all of it is known while a search is answered. The click's probability is calibrated on validation days by a
monotone network (`preference.calibration`), and is what a "no match" is decided by.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onevision.errors import ArtifactError
from onevision.generator.choice import COSINE_SCALE, FEATURES, ChoiceModel, Shoppers
from onevision.preference.calibration import MonotoneNetwork
from onevision.preference.rates import RATES, corrected_rates

KNOWN = FEATURES[: FEATURES.index("again")]
READ = (*KNOWN, "taste", "choice", *RATES)
HIDDEN = 16
BATCH_SIZE, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 1024, 8, 5e-3, 1e-2
WEIGHTS = "reward.safetensors"
UNKNOWN_OF_NEW = [READ.index("popularity"), *range(len(READ) - len(RATES), len(READ))]
HIDDEN_SHARE = 0.2
"""Of the pairs in training what is known of the item is hidden, or nothing would be learnt of items that are new."""
LEAST = 1e-6
"""Of a probability, before its logarithm is taken."""


class Outcome(NamedTuple):
    """Probabilities, all of one shape: that it is clicked, and that it is clicked and ordered."""

    click: Tensor
    order: Tensor


class RewardModel(nn.Module):
    """Scores pairs of a search and an item.

    Args:
        counts: (I, 4) of `rates.OUTCOMES` over training searches.
    """

    counts: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts)
        self.register_buffer("mean", torch.zeros(len(READ)))
        self.register_buffer("deviation", torch.ones(len(READ)))
        self.heads = nn.Sequential(nn.Linear(len(READ), HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))
        self.calibrator = MonotoneNetwork()

    @torch.no_grad()
    def features(
        self, choice: ChoiceModel, shoppers: Shoppers, items: Tensor, scores: Tensor, own: Tensor | None = None
    ) -> Tensor:
        """What is read of pairs, (B, C, F).

        Args:
            items: (B, C), none missing; scores: (B, C) log-probability that the item is chosen among those found.
            own: (B, C, 4) outcomes of these very searches, taken out of what was counted.
        """
        known = choice.known(shoppers, items, None if own is None else own[..., 1])
        taste = (choice.tastes(items) @ choice.user(shoppers)[..., None]).squeeze(-1)
        counts = self.counts[items] if own is None else (self.counts[items] - own).clamp_min(0)
        rates = corrected_rates(counts, self.counts.sum(0))
        return torch.cat([known[..., : len(KNOWN)], taste[..., None], scores[..., None], rates], -1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., 2) that are not calibrated: click, and order once clicked."""
        logits: Tensor = self.heads((features - self.mean) / self.deviation)
        return logits

    @torch.no_grad()
    def outcome(self, features: Tensor) -> Outcome:
        """Probabilities (...) with the click calibrated."""
        logits = self(features)
        click = self.calibrator.probability(logits[..., 0].flatten()).view(logits.shape[:-1])
        return Outcome(click, click * logits[..., 1].sigmoid())

    def reward(self, features: Tensor, click: float, order: float, relevance: float) -> Tensor:
        """Expected reward (...): `click` for a click, `order` for an order, `relevance` times the cosine of the photo
        and the item's best view."""
        outcome = self.outcome(features)
        only_clicked = outcome.click - outcome.order
        cosine = features[..., 0].clamp_min(0) / COSINE_SCALE
        return click * only_clicked + order * outcome.order + relevance * cosine

    def fit(self, features: Tensor, labels: Tensor, seed: int) -> RewardModel:
        """Learn from pairs (N, F) that were shown and what came of them (N, 2): clicked, ordered."""
        deviation = features.std(0)
        # What was the same for all of them (nothing new was shown in training) is not read.
        self.mean, self.deviation = features.mean(0), torch.where(deviation > 1e-3, deviation, torch.inf)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(features), generator=generator).split(BATCH_SIZE):
                read = features[batch]
                hidden = torch.rand(len(batch), 1, generator=generator) < HIDDEN_SHARE
                read[:, UNKNOWN_OF_NEW] = read[:, UNKNOWN_OF_NEW].masked_fill(hidden, 0.0)
                loss = reward_loss(self(read), labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        return self.eval().requires_grad_(False)

    def save_pretrained(self, folder: Path) -> None:
        """Write `reward.safetensors`."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> RewardModel:
        """Read what `save_pretrained` wrote."""
        try:
            tensors = load_file(folder / WEIGHTS)
            model = cls(tensors["counts"])
            model.load_state_dict(tensors)
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder / WEIGHTS}: not the weights of a reward model ({error})") from None
        return model.eval().requires_grad_(False)


def reward_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of clicks and orders (N, 2) of what was shown, from logits (N, 2)."""
    click = F.binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0])
    order = F.logsigmoid(logits).sum(1)  # log p(click) p(order | click)
    neither = torch.log1p(-order.exp().clamp_max(1 - LEAST))
    return click - torch.where(labels[:, 1] > 0, order, neither).mean()


def click_probabilities(
    model: RewardModel,
    choice: ChoiceModel,
    shoppers: Shoppers,
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(B, k) calibrated probability that each item found (B, k) is clicked if it is shown; 0 where there is none (-1).

    Args:
        scores: (B, k) as the ranker gives them (`decoding.ranker.Ranking`).
    """
    there = torch.from_numpy(items >= 0)
    found = torch.from_numpy(items).clamp_min(0)
    features = model.features(choice, shoppers, found, torch.from_numpy(scores).masked_fill(~there, 0.0))
    probability: NDArray[np.float32] = model.outcome(features).click.masked_fill(~there, 0.0).numpy()
    return probability
