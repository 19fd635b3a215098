"""Warm start of the choice model: a refresh goes on from the parent's tastes, which new items get by their traits.

Traits are worked out anew for every catalogue (their principal directions turn when items come), so the map from traits
to tastes is not stored: it is found again by least squares from the items that the parent knew.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.generator.choice import ITEM_KEY, ChoiceModel, read_choice
from onevision.generator.choice_items import item_keys
from onevision.semantic_ids.catalogue import Catalogue


class ParentChoice(NamedTuple):
    """What a choice model goes on from: the parent's parameters by name, the map (k, F) from traits to tastes, and how
    much taste counts in its beams."""

    parameters: dict[str, Tensor]
    taste_of: Tensor
    guidance: float

    def rank(self) -> int:
        """k, dimensions of taste."""
        return len(self.taste_of)

    def into(self, model: ChoiceModel) -> None:
        """Give a model of the same profiles and rank these parameters."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.parameters[name])


def open_parent_choice(parent: Path, catalogue: Catalogue, traits: NDArray[np.float32]) -> ParentChoice | None:
    """The parent's choice model for this catalogue's items.

    Args:
        parent: folder of a generator; traits: (I, F) of the catalogue's items, as `train_choice` takes them.

    Returns:
        None where the parent knows too few of the items to say what tastes are made of, or does not say which.
    """
    settings, tensors = read_choice(parent)
    if ITEM_KEY not in tensors:
        return None
    now, then = item_keys(catalogue.item_ids), tensors[ITEM_KEY].numpy()
    _, here, there = np.intersect1d(now, then, assume_unique=True, return_indices=True)
    if len(here) < 2 * traits.shape[1]:
        return None
    found = np.linalg.lstsq(traits[here].astype(np.float64), tensors["taste"].numpy()[there], rcond=1e-6)[0]
    return ParentChoice(tensors, torch.from_numpy(found.T.astype(np.float32)), float(settings["guidance"]))
