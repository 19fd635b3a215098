"""P x K batches: P products, K views of each, so that InfoNCE sees pairs and circle loss sees sets.

A share of the products comes with a product that shoppers clicked for their photo: those pairs are weak positives, so
that look-alikes which people take for each other are not pushed apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.encoder.config import EncoderConfig
from onevision.errors import OneVisionError


@dataclass
class TrainingViews:
    """Pictures that may be trained on, by product.

    Attributes:
        catalogue, shopper: product number -> rows of the picture table, by kind of view.
        neighbours: product number -> products clicked for its photos, or in one visit (numbers, probabilities).
    """

    items: list[str]
    catalogue: list[NDArray[np.int64]]
    shopper: list[NDArray[np.int64]]
    neighbours: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=dict)


def collect_views(
    images: pa.Table, train_image_ids: set[str], image_pairs: pa.Table, *, co_clicks: bool = False
) -> TrainingViews:
    """Group the training pictures of `images` (image_id, item_id, view) by product.

    A photo of something unknown counts as a view of the product that was clicked or ordered for it.

    Args:
        image_pairs: of `pair`; those of one product are found in `images`.
        co_clicks: whether co-click pairs make both products neighbours of each other, by their weights.
    """
    row_of = {image: row for row, image in enumerate(images["image_id"].to_pylist())}
    owner = images["item_id"].to_pylist()
    clicks: dict[tuple[str, str], float] = defaultdict(float)
    for pair in image_pairs.to_pylist():
        if pair["kind"] == "co_click" and co_clicks:
            for both in ((pair["item_a"], pair["item_b"]), (pair["item_b"], pair["item_a"])):
                clicks[both] += pair["weight"]
        if not pair["kind"].startswith("query_"):
            continue
        if pair["item_a"] is None:
            owner[row_of[pair["image_a"]]] = pair["item_b"]
        elif pair["item_a"] != pair["item_b"]:
            clicks[pair["item_a"], pair["item_b"]] += pair["weight"]
    by_item: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    views = images["view"].to_pylist()
    for image, row in row_of.items():
        if image in train_image_ids and owner[row] is not None:
            by_item[owner[row]][0 if views[row] in CATALOGUE_VIEWS else 1].append(row)
    items = sorted(i for i, (c, s) in by_item.items() if len(c) + len(s) >= 2)
    if len(items) < 2:
        raise OneVisionError(
            f"only {len(items)} products have two training pictures; alignment needs at least 2. "
            "Give products a second view, or photos with known item_id."
        )
    number = {item: n for n, item in enumerate(items)}
    grouped: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (a, b), weight in sorted(clicks.items()):
        if a in number and b in number:
            grouped[number[a]].append((number[b], weight))
    neighbours = {}
    for n, pairs in grouped.items():
        weights = np.array([w for _, w in pairs])
        neighbours[n] = (np.array([b for b, _ in pairs]), weights / weights.sum())
    return TrainingViews(
        items,
        [np.array(sorted(by_item[i][0]), dtype=np.int64) for i in items],
        [np.array(sorted(by_item[i][1]), dtype=np.int64) for i in items],
        neighbours,
    )


class Batch(NamedTuple):
    """`rows` (N,) of the picture table, `product` (N,) numbers, `affinity` (N, N) as `info_nce` takes it."""

    rows: NDArray[np.int64]
    product: Tensor
    affinity: Tensor


def batches(
    views: TrainingViews,
    config: EncoderConfig,
    rng: np.random.Generator,
    *,
    queue: list[int] | None = None,
    look_alike: Callable[[int, np.random.Generator], int | None] | None = None,
) -> Iterator[Batch]:
    """Endless P x K batches of one size; every product is drawn once an epoch.

    A product with fewer views leaves room for another; the last one may be cut short.

    Args:
        queue: products that are left of the epoch; with `rng` the whole state of the stream, changed in place.
        look_alike: product -> another that comes with it into the batch, or None.
    """
    available = sum(
        min(config.views_per_item, len(c) + len(s)) for c, s in zip(views.catalogue, views.shopper, strict=True)
    )
    size = min(config.items_per_batch * config.views_per_item, available)
    queue = [] if queue is None else queue
    while True:
        drawn: dict[int, NDArray[np.int64]] = {}
        rows = 0
        while rows < size:
            if not queue:
                queue.extend(rng.permutation(len(views.items)).tolist())
            product = queue.pop()
            clicked = _clicked(product, views, config.click_pair_share, rng)
            for n in (product, clicked, look_alike(product, rng) if look_alike else None):
                if n is not None and n not in drawn:
                    drawn[n] = _draw(views.catalogue[n], views.shopper[n], config.views_per_item, rng)[: size - rows]
                    rows += len(drawn[n])
        product_numbers = torch.tensor(np.repeat(list(drawn), [len(d) for d in drawn.values()]))
        affinity = _affinity(product_numbers, views, config.click_affinity)
        yield Batch(np.concatenate(list(drawn.values())), product_numbers, affinity)


def _clicked(product: int, views: TrainingViews, share: float, rng: np.random.Generator) -> int | None:
    """A product that was clicked for photos of this one, in `share` of the cases."""
    if product not in views.neighbours or rng.random() >= share:
        return None
    candidates, probability = views.neighbours[product]
    return int(rng.choice(candidates, p=probability))


def _draw(
    catalogue: NDArray[np.int64], shopper: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    # Half shopper's pictures, half the shop's: the gap between them is what has to close.
    half = min(len(shopper), max(count // 2, count - len(catalogue)))
    rest = min(len(catalogue), count - half)
    return np.concatenate([rng.choice(shopper, half, replace=False), rng.choice(catalogue, rest, replace=False)])


def _affinity(product: Tensor, views: TrainingViews, click_affinity: float) -> Tensor:
    numbers, row = np.unique(product.numpy(), return_inverse=True)
    clicked = np.array([np.isin(numbers, views.neighbours.get(int(n), ([],))[0]) for n in numbers])
    weak = torch.from_numpy((clicked | clicked.T)[row][:, row])
    same = product[:, None] == product[None]
    return same.float().masked_fill(weak & ~same, click_affinity if click_affinity > 0 else -1.0)
