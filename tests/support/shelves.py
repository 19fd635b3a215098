"""Items and searches made by hand for tests of the evaluation: only taste tells look-alikes apart."""

from __future__ import annotations

import numpy as np

from onevision.evaluation.items import Items
from onevision.evaluation.searches import HISTORIES, Searches

DAY = 86_400_000_000
DIM = 12


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_items(count: int, cold: int = 0, seed: int = 0) -> Items:
    """Families of four look-alikes, one of each brand; the last `cold` items enter at day 10."""
    rng = np.random.default_rng(seed)
    family = np.arange(count) // 4
    looks = unit(rng.normal(size=(family.max() + 1, DIM)))[family]
    embedding = unit(looks + 0.02 * rng.normal(size=(count, DIM)))
    views = unit(np.repeat(embedding, 2, axis=0) + 0.02 * rng.normal(size=(2 * count, DIM)))
    is_cold = np.arange(count) >= count - cold
    return Items(
        item_id=np.array([f"item-{i:04d}" for i in range(count)]),
        bucket=np.arange(count) // 2,
        category=np.array([f"c{f % 3}" for f in family]),
        department=np.array([f"d{f % 3 % 2}" for f in family]),
        brand=np.array([f"b{i % 4}" for i in range(count)]),
        price=rng.uniform(1, 50, count),
        cold=is_cold,
        created=np.where(is_cold, 10 * DAY, 0),
        embedding=embedding,
        view_embedding=views,
        view_item=np.repeat(np.arange(count), 2),
    )


def make_searches(items: Items, count: int, *, start: int, end: int, seed: int = 0) -> Searches:
    """Photos of an item at random; the user clicks the look-alike of the brand that their history is full of."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(start, end, count))
    seen = [np.flatnonzero(items.created <= t) for t in ts]
    photographed = np.array([rng.choice(rows) for rows in seen])
    brand = rng.integers(0, 4, count)
    clicked, history = [], []
    for row, item in enumerate(photographed):
        wanted = item // 4 * 4 + brand[row]
        clicked.append(np.array([wanted if wanted in seen[row] else item]))
        history.append(rng.choice(np.flatnonzero(items.brand == f"b{brand[row]}"), size=5))
    photo = unit(items.embedding[photographed] + 0.05 * rng.normal(size=(count, DIM)))
    return Searches(
        embedding=photo,
        ts=ts,
        histories={name: history if name != "recent_ordered" else [h[:2] for h in history] for name in HISTORIES},
        segment=np.where(brand < 2, "first", "second"),
        clicked=clicked,
        ordered=[c if q % 3 == 0 else c[:0] for q, c in enumerate(clicked)],
        shown=[np.unique(np.r_[c, item]) for c, item in zip(clicked, photographed, strict=True)],
    )
