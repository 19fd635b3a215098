"""How often an item is clicked, carted and ordered where it is shown: rates that few observations cannot move far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from onevision.artifacts import open_artifact
from onevision.features.queries import QuerySet
from onevision.semantic_ids.catalogue import Catalogue

OUTCOMES = ("shown", "clicked", "carted", "ordered")
RATES = ("click rate", "cart rate", "order rate", "log impressions")
PSEUDO_SHOWN, PSEUDO_CLICKED = 20.0, 5.0
"""So many impressions, or clicks, of a usual item are added to every item's own."""


def item_counts(pairs: Path, catalogue: Catalogue) -> Tensor:
    """(I, 4) float32: in how many training searches each item had each of `OUTCOMES`."""
    table = pq.read_table(open_artifact(pairs, "pairs").file("queries.parquet"), columns=["split", *OUTCOMES])
    table = table.filter(pc.equal(table["split"], "train"))
    number = catalogue.numbers()
    counts = np.zeros((len(catalogue.item_ids), len(OUTCOMES)), np.float32)
    for place, outcome in enumerate(OUTCOMES):
        there = [number[i] for items in table[outcome].to_pylist() for i in dict.fromkeys(items) if i in number]
        counts[:, place] = np.bincount(np.array(there, dtype=np.int64), minlength=len(counts))
    return torch.from_numpy(counts)


def outcomes_of(queries: QuerySet, catalogue: Catalogue, items: Tensor) -> Tensor:
    """(Q, C, 4) float32, 1 where the item (Q, C) had the outcome in that very search; -1 is no item and has none."""
    number = catalogue.numbers()
    out = np.zeros((*items.shape, len(OUTCOMES)), np.float32)
    for place, outcome in enumerate(OUTCOMES):
        for row, wanted in enumerate(getattr(queries, outcome)):
            known = [number[item] for item in wanted if item in number]
            out[row, :, place] = np.isin(items[row].numpy(), known)
    return torch.from_numpy(out)


def corrected_rates(counts: Tensor, everything: Tensor) -> Tensor:
    """Log rates (..., 4) of counts (..., 4) against the usual ones, and log impressions; 0 where nothing is known.

    log ((c + m r) / (n + m)) - log r, with r the usual rate and m pseudo-observations: clicks and carts and orders of
    an item, out of its impressions and its clicks.

    Args:
        everything: (4,) sums of the counts over all items.
    """
    shown, clicked, carted, ordered = counts.unbind(-1)
    total = everything.clamp_min(1)
    columns = []
    for part, whole, usual, pseudo in (
        (clicked, shown, total[1] / total[0], PSEUDO_SHOWN),
        (carted, clicked, total[2] / total[1], PSEUDO_CLICKED),
        (ordered, clicked, total[3] / total[1], PSEUDO_CLICKED),
    ):
        columns.append(((part / usual + pseudo) / (whole + pseudo)).log())
    return torch.stack([*columns, shown.log1p()], -1)
