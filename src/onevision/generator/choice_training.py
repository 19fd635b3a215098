"""Training of the choice model: tastes on the training searches, then the weights once more on validation days.

The photos of training searches were trained on by the encoder too, so there every photo looks like its product as no
new photo will. The few weights of likeness against everything else are therefore fitted again on validation days,
among what the beams find there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from onevision.features.queries import QuerySet
from onevision.generator.candidates import Candidates
from onevision.generator.choice import INTENTS, ChoiceModel, Shoppers
from onevision.generator.config import GeneratorTrainingConfig
from onevision.semantic_ids.catalogue import Catalogue

BATCH_SIZE = 256
WEIGHT_LEARNING_RATE = 0.02
WEIGHT_DECAY = 1.0
CALIBRATION_STEPS = 60
PRIOR_DEVIATION = 1.0
"""How far calibration is expected to move a weight; a handful of searches moves it less."""


class Clicks(NamedTuple):
    """S clicks as choices among candidates: shoppers' rows (S,), candidates (S, C) with the click first, the features
    of them that do not change (S, C, 8), log-probabilities (S, C), valid (S, C) bool, how many items a candidate stands
    for (S, C), weight (S,)."""

    row: Tensor
    items: Tensor
    known: Tensor
    log_p: Tensor
    valid: Tensor
    stands_for: Tensor
    weight: Tensor


def clicks_among(
    model: ChoiceModel,
    shoppers: Shoppers,
    queries: QuerySet,
    catalogue: Catalogue,
    candidates: Candidates,
    config: GeneratorTrainingConfig,
    *,
    counted: bool,
) -> Clicks:
    """Clicks and orders of searches as choices among the candidates of each search.

    A click that beams did not find is left out. Where the candidates stand for the whole shop it joins them.

    Args:
        counted: the searches are those whose clicks the item table counts.
    """
    number = catalogue.numbers()
    rows, targets, weights = [], [], []
    for query, (clicked, ordered) in enumerate(zip(queries.clicked, queries.ordered, strict=True)):
        for item in dict.fromkeys([*clicked, *ordered]):
            if item in number and (candidates.log_p is None or number[item] in candidates.items[query]):
                rows.append(query)
                targets.append(number[item])
                weights.append(config.order_weight if item in ordered else 1.0)
    row, target = np.array(rows, dtype=np.int64), np.array(targets, dtype=np.int64)
    its_own = candidates.items[row] == target[:, None]
    items = np.concatenate([target[:, None], np.where(its_own, -1, candidates.items[row])], axis=1)
    stands_for = np.pad(candidates.stands_for[row], ((0, 0), (1, 0)), constant_values=1)
    found = np.zeros(items.shape, np.float32)
    if candidates.log_p is not None:
        found[:, 1:] = candidates.log_p[row]
        found[:, 0] = np.where(its_own, candidates.log_p[row], 0).sum(1)
    own = own_clicks(queries, catalogue, row, items) if counted else np.zeros(items.shape, np.float32)
    chosen, valid = torch.from_numpy(items), torch.from_numpy(items >= 0)
    known = [
        model.known(_of(shoppers, torch.from_numpy(row[part])), chosen[part], torch.from_numpy(own[part]))
        for part in np.array_split(np.arange(len(row)), len(row) // 512 + 1)
    ]
    return Clicks(
        torch.from_numpy(row),
        chosen,
        torch.cat(known),
        torch.from_numpy(np.where(items >= 0, found, 0).astype(np.float32)),
        valid,
        torch.from_numpy(stands_for),
        torch.tensor(weights, dtype=torch.float32),
    )


def own_clicks(
    queries: QuerySet, catalogue: Catalogue, row: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(S, C) how often the searches `row` (S,) themselves clicked each of the items (S, C)."""
    number = catalogue.numbers()
    own = np.zeros(items.shape, np.float32)
    for place, query in enumerate(row.tolist()):
        clicked = np.array([number[item] for item in queries.clicked[query] if item in number], dtype=np.int64)
        own[place] = (items[place][:, None] == clicked).sum(1)
    return own


def train_choice(
    model: ChoiceModel,
    traits: NDArray[np.float32],
    clicks: Clicks,
    shoppers: Shoppers,
    measured: Clicks,
    measured_shoppers: Shoppers,
    learning_rate: float,
    epochs: int,
    seed: int,
    start: Tensor | None = None,
) -> list[float]:
    """Learn tastes from training clicks; keeps the epoch that says most of the `measured` ones on validation days.

    Args:
        traits: (I, F) of the items (`generator.traits`).
        start: (k, F) map from traits to tastes to go on from, with the parameters that the model has; without training
            it is the first of the epochs.

    Returns:
        NDCG of every epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    described, scale = torch.from_numpy(traits), traits.shape[1] ** 0.5
    described = described / scale
    taste_of = nn.Linear(traits.shape[1], model.taste.shape[1], bias=False)
    nn.init.normal_(taste_of.weight, std=0.6, generator=generator)
    if start is not None:
        taste_of.weight.data.copy_(start * scale)
    own = [model.weights, model.intent]
    others = [p for n, p in model.named_parameters() if n not in ("weights", "intent")]
    optimizer = torch.optim.AdamW(
        [
            {"params": [*others, taste_of.weight], "weight_decay": WEIGHT_DECAY},
            {"params": own, "lr": WEIGHT_LEARNING_RATE, "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    scores: list[float] = []
    best: dict[str, Tensor] = {}

    def measure() -> None:
        nonlocal best
        model.eval()
        model.taste = taste_of(described).detach()
        scores.append(_ndcg(model, measured, measured_shoppers))
        if scores[-1] == max(scores):
            best = copy.deepcopy(model.state_dict())

    if start is not None:
        measure()
    for _ in tqdm(range(epochs), desc="sft choice", disable=None):
        model.train()
        for batch in torch.randperm(len(clicks.row), generator=generator).split(BATCH_SIZE):
            model.taste = taste_of(described)
            loss = choice_loss(model, clicks, shoppers, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        measure()
    model.load_state_dict(best)
    name_intents(model, [measured], measured_shoppers)
    return scores


def calibrate_choice(model: ChoiceModel, searches: Sequence[Clicks], shoppers: Shoppers) -> None:
    """Fit the weights of the features and of the intents again on other clicks, drawn towards what they are.

    Args:
        searches: the clicks among what each way to search finds; all ways count alike.
    """
    start = [model.weights.detach().clone(), model.intent.detach().clone()]
    fitted = [model.weights, model.intent]
    searches = [clicks for clicks in searches if len(clicks.row)]
    if not searches:
        return
    model.eval()
    with torch.no_grad():
        tastes = [_taste(model, clicks, shoppers, torch.arange(len(clicks.row))) for clicks in searches]
    optimizer = torch.optim.LBFGS(fitted, max_iter=CALIBRATION_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        moved = sum(((p - s) / PRIOR_DEVIATION).square().sum() for p, s in zip(fitted, start, strict=True))
        losses = []
        for clicks, taste in zip(searches, tastes, strict=True):
            log_p = model(clicks.known, clicks.log_p, taste, clicks.valid)
            losses.append(_mean_loss(log_p, clicks.weight) + moved / (2 * len(clicks.row)))
        mean = torch.stack(losses).mean()
        optimizer.zero_grad(set_to_none=True)
        mean.backward()
        return mean

    optimizer.step(loss)
    name_intents(model, searches, shoppers)


@torch.no_grad()
def name_intents(model: ChoiceModel, searches: Sequence[Clicks], shoppers: Shoppers) -> None:
    """Let the first intent be the surer one of what it wants: nothing else keeps the two from changing places."""
    sure = torch.zeros(len(INTENTS))
    for clicks in searches:
        taste = _taste(model, clicks, shoppers, torch.arange(len(clicks.row)))
        scores = model.intent_scores(clicks.known, clicks.log_p, taste, clicks.valid)
        sure += scores.softmax(1).amax(1).sum(0)
    order = sure.argsort(descending=True, stable=True)
    for parameter in (model.weights, model.intent):
        parameter.copy_(parameter[order].clone())


def choice_loss(model: ChoiceModel, clicks: Clicks, shoppers: Shoppers, batch: Tensor) -> Tensor:
    """Weighted mean of -log p(click | photo, shopper) of the clicks `batch` (B,)."""
    return _mean_loss(_log_p(model, clicks, shoppers, batch), clicks.weight[batch])


def _mean_loss(log_p: Tensor, weight: Tensor) -> Tensor:
    return -(log_p[:, 0] * weight).sum() / weight.sum()


def _log_p(model: ChoiceModel, clicks: Clicks, shoppers: Shoppers, batch: Tensor) -> Tensor:
    taste = _taste(model, clicks, shoppers, batch)
    known, found, valid, stands_for = (v[batch] for v in (clicks.known, clicks.log_p, clicks.valid, clicks.stands_for))
    log_p: Tensor = model(known, found, taste, valid, stands_for)
    return log_p


def _taste(model: ChoiceModel, clicks: Clicks, shoppers: Shoppers, batch: Tensor) -> Tensor:
    user = model.user(_of(shoppers, clicks.row[batch]))
    return (model.tastes(clicks.items[batch].clamp_min(0)) @ user[..., None]).squeeze(-1)


@torch.no_grad()
def _ndcg(model: ChoiceModel, clicks: Clicks, shoppers: Shoppers) -> float:
    log_p = _log_p(model, clicks, shoppers, torch.arange(len(clicks.row)))
    place = ((log_p > log_p[:, :1]) * clicks.stands_for).sum(1)
    if not len(place) or log_p[:, 0].isnan().any():  # nothing is larger than what is no number
        return 0.0
    return float((1 / torch.log2(place + 2.0)).mean())


def _of(shoppers: Shoppers, rows: Tensor) -> Shoppers:
    return Shoppers(*(value[rows] for value in shoppers))
