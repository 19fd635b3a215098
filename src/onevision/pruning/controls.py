"""Controls for pruning at equal size: if these are as good, attention says nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.attention_mass import KeepRule
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.calibration import Sweep
from onevision.pruning.point import Point


def top_k(count: int) -> KeepRule:
    """The same number of tokens for every picture, by attention mass."""

    def rule(mass: Tensor) -> Tensor:
        order = mass.argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.zeros_like(mass, dtype=torch.bool).scatter_(1, order, True)

    return rule


def random_k(count: int, seed: int) -> KeepRule:
    """Random tokens, other ones for every picture; padding, which has no mass, comes last."""
    generator = torch.Generator().manual_seed(seed)

    def rule(mass: Tensor) -> Tensor:
        order = (torch.rand(mass.shape, generator=generator) + (mass == 0)).argsort(dim=1)[:, :count]
        return torch.zeros_like(mass, dtype=torch.bool).scatter_(1, order, True)

    return rule


def centre_crop(count: int) -> KeepRule:
    """The tokens nearest to the middle of the grid."""

    def rule(mass: Tensor) -> Tensor:
        side = round(mass.shape[1] ** 0.5)
        place = torch.arange(mass.shape[1])
        middle = (side - 1) / 2
        distance = (place // side - middle) ** 2 + (place % side - middle) ** 2
        keep = torch.zeros(mass.shape[1], dtype=torch.bool)
        keep[distance.argsort(stable=True)[:count]] = True
        return keep.expand_as(mass).clone()

    return rule


def newest_k(count: int) -> KeepRule:
    """The first tokens of the histories: the newest that were clicked, then searched, then ordered, then older ones."""

    def rule(mass: Tensor) -> Tensor:
        there = mass > 0
        return there & (there.cumsum(1) <= count)

    return rule


def of_size(count: int, seed: int) -> dict[str, KeepRule]:
    """The rules that keep so many tokens or patches of every picture, by name."""
    return {"top": top_k(count), "random": random_k(count, seed), "centre": centre_crop(count)}


def prompt_controls(sweep: Sweep, point: Point, base: PruningSetting, seed: int) -> list[Point]:
    """Controls beside a setting that prunes the prompt by attention mass, at its mean size, on top of the same base.

    In place of the centre, which histories do not have, stand the newest of their tokens.
    """
    setting, image = point.setting, max(1, round(point.kept_mean))
    if setting.decoder_mass < 1:
        size = max(1, sweep.ranker.model.config.image_tokens - 1 - round(point.spared_mean))
        return [
            sweep.measure(f"{name}-{size} after the first code", "control", base, keep_later=rule)
            for name, rule in of_size(size, seed).items()
        ]
    if setting.prunable == "image":
        return [sweep.measure(f"{name}-{image}", "control", base, rule) for name, rule in of_size(image, seed).items()]
    there, patches = sweep.histories(base), sweep.ranker.model.config.image_tokens
    newest = _nearest(point.history_mean, there)
    if setting.prunable == "history":
        rules = of_size(newest, seed) | {"centre": newest_k(newest)}
        names = [f"{name}-{newest} of the histories" for name in ("top", "random", "newest")]
    else:
        size = _nearest(point.kept_mean + point.history_mean, there + patches)

        def centre_and_newest(mass: Tensor) -> Tensor:
            return torch.cat([centre_crop(image)(mass[:, :patches]), newest_k(newest)(mass[:, patches:])], 1)

        rules = of_size(size, seed) | {"centre": centre_and_newest}
        names = [f"top-{size} of both", f"random-{size} of both", f"centre-{image} and newest-{newest}"]
    of = base.model_copy(update={"prunable": setting.prunable})
    return [sweep.measure(name, "control", of, rule) for name, rule in zip(names, rules.values(), strict=True)]


def _nearest(wanted: float, there: NDArray[np.int64]) -> int:
    """How many tokens to keep of those of each query (Q,), so that their mean is nearest to what is wanted."""
    counts = range(1, int(there.max(initial=1)) + 1)
    return min(counts, key=lambda count: abs(float(np.minimum(there, count).mean()) - wanted))
