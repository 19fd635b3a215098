"""Figures of one encoding on held-out products, one value a product for the intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onevision.metrics import (
    Interval,
    crossed_interval,
    encoding_metrics,
    prefix_ids,
    shared_prefix_length,
)
from onevision.quantization.encoding import Encoding
from onevision.quantization.encoding_inputs import EncodingData

RECALL_CUTOFFS = (1, 10)
KIND_LEVELS = 2
"""Prefixes that are measured by kind of pair: those that views are meant to share."""
MAX_RECALL_PHOTOS = 2_000
SAMPLES = 1000


class Measured:
    """Figures of an encoding that was fitted several times, each time by another seed.

    Attributes:
        metrics: name -> mean over the fits.
        values: name -> (products, fits), the same products for every encoding. `vc@l` and `r@k` are over held-out
            photos and the code of their product's item vector, `vc@l/<kind>` over held-out pairs of pictures. A product
            with several of them counts once, with their mean.
    """

    def __init__(self, fits: Sequence[Encoding], data: EncodingData, seed: int) -> None:
        metrics, values = zip(*(_measure(fit, data, seed) for fit in fits), strict=True)
        self.metrics = {name: float(np.mean([of_fit[name] for of_fit in metrics])) for name in metrics[0]}
        self.values = {name: np.stack([of_fit[name] for of_fit in values], axis=1) for name in values[0]}

    def interval(self, name: str, seed: int = 0) -> Interval | None:
        """Mean over products and fits, and its interval for others of both; None where it was not measured."""
        return crossed_interval(self.values[name], SAMPLES, seed) if name in self.values else None

    def difference(self, other: Measured, name: str, seed: int = 0) -> Interval | None:
        """Mean of this less the other's value over the same products, both fitted as often; None where one was not
        measured."""
        if name not in self.values or name not in other.values:
            return None
        return crossed_interval(self.values[name] - other.values[name], SAMPLES, seed)


def _measure(
    method: Encoding, data: EncodingData, seed: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Flat metrics of one fit, and those that have intervals by product."""
    codes = method.encode(data.item)
    buckets = prefix_ids(codes, codes.shape[1])
    size = np.bincount(buckets)[buckets]
    metrics = encoding_metrics(codes, method.codebook_sizes, data.category)
    metrics["bits"] = float(np.log2(np.asarray(method.codebook_sizes, dtype=np.float64)).sum())
    values = {"icr": (size == 1).astype(np.float64), "collision_rate": 1 - 1 / size}
    if len(data.photo):
        photos = data.x[data.photo]
        shared = shared_prefix_length(method.encode(photos), codes[data.target])
        for level in range(1, codes.shape[1] + 1):
            values[f"vc@{level}"] = _by_product(shared >= level, data.target)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(photos))[:MAX_RECALL_PHOTOS])
        rank = ranks(photos[chosen], method.decode(codes), data.target[chosen])
        values |= {f"r@{k}": _by_product(rank <= k, data.target[chosen]) for k in RECALL_CUTOFFS}
    for kind, rows in data.kinds.items():
        ends = [method.encode(data.x[rows[:, end]]) for end in (0, 1)]
        shared = shared_prefix_length(*ends)
        for level in range(1, min(KIND_LEVELS, codes.shape[1]) + 1):
            values[f"vc@{level}/{kind}"] = _by_product(shared >= level, data.product[rows[:, 0]])
    error = np.square(data.item - method.decode(codes)).sum(axis=1)
    metrics["relative_error"] = float(error.mean() / np.square(data.item - data.item.mean(axis=0)).sum(axis=1).mean())
    metrics |= {name: float(of_product.mean()) for name, of_product in values.items()}
    return metrics, values


def ranks(photos: NDArray[np.float32], rebuilt: NDArray[np.float32], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each photo's own product among all rebuilt vectors; products that are not told apart share the worst."""
    half_norm = np.square(rebuilt).sum(axis=1) / 2
    found = np.empty(len(photos), dtype=np.int64)
    for row, photo in enumerate(photos):
        score = rebuilt @ photo - half_norm
        found[row] = (score >= score[target[row]]).sum()
    return found


def _by_product(values: NDArray[Any], product: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the values of each product, in the order of their numbers."""
    number = np.unique(product, return_inverse=True)[1]
    return np.bincount(number, weights=values.astype(np.float64)) / np.bincount(number)
