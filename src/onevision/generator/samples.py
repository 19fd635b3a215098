"""What the generator learns from: pictures, categories and semantic IDs with their product, and queries with what was
clicked and ordered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.errors import OneVisionError
from onevision.features.queries import QuerySet
from onevision.generator.config import GeneratorTrainingConfig
from onevision.generator.prompts import Prompt, PromptBuilder
from onevision.quantization.residual import ResidualQuantizer
from onevision.semantic_ids.catalogue import Catalogue


@dataclass
class Samples:
    """Training samples: rows of a table of prompts, the item to write, and how much it counts.

    Attributes:
        prompts: P prompts.
        row: (S,) prompt of each sample; item: (S,) item number; weight: (S,).
        partner: (P,) row of a catalogue picture's prompt of the same product, for view mixing; -1 for none.
    """

    prompts: Prompt
    row: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float32]
    partner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def draw(self, count: int, view_mix: float, rng: np.random.Generator) -> tuple[Prompt, Tensor, Tensor]:
        """A random batch: prompts, item numbers (B,) and weights (B,).

        With `view_mix` a > 0 half of the prompts that have a partner get the picture vector
        b e + (1 - b) e_partner, b ~ Beta(a, a): a cheap augmentation against the gap between views (GENIUS).
        """
        chosen = rng.integers(0, len(self), count)
        rows = self.row[chosen]
        prompt = self.prompts.take(torch.from_numpy(rows))
        if view_mix > 0:
            drawn = rng.beta(view_mix, view_mix, count)
            mixed = (self.partner[rows] >= 0) & (rng.random(count) < 0.5)
            share = torch.from_numpy(np.where(mixed, drawn, 1.0).astype(np.float32))[:, None]
            partner = self.prompts.embedding[torch.from_numpy(np.where(mixed, self.partner[rows], rows))]
            prompt.embedding = torch.nn.functional.normalize(share * prompt.embedding + (1 - share) * partner, dim=1)
        return prompt, torch.from_numpy(self.item[chosen]), torch.from_numpy(self.weight[chosen])


def picture_samples(encoder: Path, builder: PromptBuilder, catalogue: Catalogue) -> Samples:
    """Stage P: every picture that may be trained on, with its own product.

    That covers catalogue pictures of all items, new ones included (they are what the shop owns), and shoppers'
    pictures from before the split; held-out photos are left out.
    """
    images = pq.read_table(encoder / "images.parquet")
    arrays = load_file(encoder / "embeddings.safetensors")
    tokens = load_file(encoder / "tokens.safetensors")["tokens"]
    number = catalogue.numbers()
    owner, view = images["item_id"].to_pylist(), np.array(images["view"].to_pylist())
    allowed = np.isin(np.array(images["split"].to_pylist()), ("train", "catalogue_cold"))
    rows = np.array([r for r in np.flatnonzero(allowed) if owner[r] in number], dtype=np.int64)
    if not len(rows):
        raise OneVisionError(f"{encoder}: no picture of an item with a semantic ID may be trained on")
    item = np.array([number[owner[r]] for r in rows])
    is_catalogue = np.isin(view[rows], CATALOGUE_VIEWS)
    main = np.full(len(catalogue.item_ids), -1)
    main[item[is_catalogue][::-1]] = np.flatnonzero(is_catalogue)[::-1]
    prompts = builder.pictures(arrays["embedding"][rows], arrays["category"][rows], tokens[rows])
    # Every item counts alike, whether it was photographed once or a hundred times.
    weight = 1.0 / np.bincount(item, minlength=len(main))[item] ** 0.5
    weight = (weight / weight.mean()).astype(np.float32)
    return Samples(prompts, np.arange(len(rows)), item, weight, np.where(is_catalogue, -1, main[item]))


def category_tasks(
    catalogue: Catalogue,
    category: NDArray[np.int64],
    quantizer: ResidualQuantizer,
    builder: PromptBuilder,
    patches: tuple[int, int],
    config: GeneratorTrainingConfig,
) -> list[tuple[Samples, float]]:
    """Stage P between category and semantic ID, of all items whose category row (I,) is known (not -1).

    Args:
        patches: (T, C) of pictures' patch tokens.

    Returns:
        categories alone, each asked for the semantic ID of an item in it, and semantic IDs alone, each shown as the
        point that its codes stand for, whose category is asked for (the ID itself has no weight there); beside each its
        share of stage P. Nothing where both shares are 0.
    """
    shares = (config.category_to_id_share, config.id_to_category_share)
    if not any(shares):
        return []
    item = np.flatnonzero(category >= 0)
    if not len(item):
        raise OneVisionError(
            "no item has a category that the encoder knows: generator.category_to_id_share and "
            "generator.id_to_category_share must be 0"
        )
    row, none = np.arange(len(item)), np.full(len(item), -1)
    tokens = np.zeros((len(item), *patches), np.float16)
    points = quantizer.decode(catalogue.codes[item])
    shown = np.zeros((len(item), builder.config.categories), np.float16)
    of_points = builder.pictures(points, shown, tokens)
    shown[row, category[item]] = 1
    of_categories = builder.pictures(np.zeros_like(points), shown, tokens)
    weight = np.ones(len(item), np.float32)
    to_id = Samples(of_categories, row, item, weight, none)
    to_category = Samples(of_points, row, item, np.zeros_like(weight), none)
    return list(zip((to_id, to_category), shares, strict=True))


def query_samples(
    queries: QuerySet, builder: PromptBuilder, catalogue: Catalogue, config: GeneratorTrainingConfig
) -> Samples:
    """Stages S1 and S2: a sample a clicked item of a query; ordered ones weigh more."""
    number = catalogue.numbers()
    row, item, weight = [], [], []
    for n, (clicked, ordered) in enumerate(zip(queries.clicked, queries.ordered, strict=True)):
        for target in dict.fromkeys([*clicked, *ordered]):
            if target in number:
                row.append(n)
                item.append(number[target])
                weight.append(config.order_weight if target in ordered else 1.0)
    if not row:
        raise OneVisionError("no training query has a click on an item with a semantic ID; the generator needs some")
    none = np.full(len(queries), -1)
    return Samples(builder.build(queries), np.array(row), np.array(item), np.array(weight, dtype=np.float32), none)
