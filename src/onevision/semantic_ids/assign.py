"""One semantic ID an item, from all of its catalogue views (method section 5).

Shallow codes are voted by the views, deep codes come from the mean residual along the voted path. An item's ID
depends on its own views alone: not on other items, on the order of rows, or on how items are cut into batches.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.quantization.residual import ResidualQuantizer
from onevision.semantic_ids.config import SemanticIdsConfig

ITEMS_A_BATCH = 8192


class Assignment(NamedTuple):
    """`codes` (I, L) int16; `embedding` (I, d) float32, unit length; `outlier` (V,) bool, views that did not vote."""

    codes: NDArray[np.int16]
    embedding: NDArray[np.float32]
    outlier: NDArray[np.bool_]


def assign(
    quantizer: ResidualQuantizer,
    view_embedding: NDArray[np.float32],
    view_item: NDArray[np.int64],
    is_main: NDArray[np.bool_],
    config: SemanticIdsConfig,
) -> Assignment:
    """Assign semantic IDs.

    Args:
        view_embedding: (V, d) catalogue views, unit length.
        view_item: (V,) item numbers 0 .. I-1, ascending; every item has at least one view.
        is_main: (V,) whether a view is the `main` one.
    """
    items = int(view_item[-1]) + 1
    weight = np.where(is_main, config.main_view_weight, 1.0).astype(np.float32)
    outlier = find_outliers(view_embedding, view_item, config.outlier_cosine)
    codes = np.empty((items, len(quantizer.codebook_sizes)), np.int16)
    embedding = np.empty((items, view_embedding.shape[1]), np.float32)
    bounds = np.searchsorted(view_item, np.arange(0, items + ITEMS_A_BATCH, ITEMS_A_BATCH))
    for start, (low, high) in enumerate(itertools.pairwise(bounds)):
        first = start * ITEMS_A_BATCH
        rows = np.arange(low, high)[~outlier[low:high]]
        owner = torch.from_numpy(view_item[rows] - first)
        last = min(first + ITEMS_A_BATCH, items)
        votes = torch.from_numpy(weight[rows])
        views = torch.from_numpy(np.ascontiguousarray(view_embedding[rows], dtype=np.float32))
        codes[first:last] = _vote(quantizer, views, owner, votes, last - first, config.voted_levels)
        mean = _weighted_mean(views, owner, votes, last - first)
        embedding[first:last] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return Assignment(codes, embedding, outlier)


def find_outliers(
    view_embedding: NDArray[np.float32], view_item: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Views (V,) whose cosine to their item's medoid view is below `threshold`; with two views none is an outlier.

    The medoid is the view with the largest sum of cosines to the others; the first one on a tie.
    """
    outlier = np.zeros(len(view_item), dtype=bool)
    starts = np.flatnonzero(np.r_[True, view_item[1:] != view_item[:-1]])
    for low, high in zip(starts, np.r_[starts[1:], len(view_item)], strict=True):
        if high - low >= 3:
            cosine = view_embedding[low:high] @ view_embedding[low:high].T
            outlier[low:high] = cosine[cosine.sum(1).argmax()] < threshold
    return outlier


@torch.inference_mode()
def mean_projection(
    quantizer: ResidualQuantizer,
    view_embedding: NDArray[np.float32],
    view_item: NDArray[np.int64],
    is_main: NDArray[np.bool_],
    config: SemanticIdsConfig,
) -> NDArray[np.float32]:
    """Weighted means (I, d) of the items' projected views, outliers left out; arguments as `assign` takes them."""
    voting = ~find_outliers(view_embedding, view_item, config.outlier_cosine)
    weight = np.where(is_main, config.main_view_weight, 1.0).astype(np.float32)[voting]
    views = quantizer.project(torch.from_numpy(np.ascontiguousarray(view_embedding[voting], dtype=np.float32)))
    owner = torch.from_numpy(view_item[voting])
    return _weighted_mean(views, owner, torch.from_numpy(weight), int(view_item[-1]) + 1).numpy()


@torch.inference_mode()
def _vote(
    quantizer: ResidualQuantizer, views: Tensor, owner: Tensor, weight: Tensor, items: int, voted_levels: int
) -> NDArray[np.int16]:
    rest = quantizer.project(views)
    residual_levels = len(quantizer.residual_sizes)
    voted_levels = min(voted_levels, residual_levels)
    codes = torch.empty(items, len(quantizer.codebook_sizes), dtype=torch.long)
    for level in range(voted_levels):
        choice = quantizer.distances(rest, level).argmin(1)
        votes = torch.zeros(items, quantizer.codebook_sizes[level]).index_put_((owner, choice), weight, accumulate=True)
        # Equal votes: the code nearest to the mean of the views.
        mean_distance = quantizer.distances(_weighted_mean(rest, owner, weight, items), level)
        mean_distance = mean_distance.masked_fill(votes < votes.amax(1, keepdim=True), torch.inf)
        codes[:, level] = mean_distance.argmin(1)
        rest = quantizer.advance(rest, level, codes[owner, level])
    mean = _weighted_mean(rest, owner, weight, items)
    for level in range(voted_levels, codes.shape[1]):
        codes[:, level] = quantizer.distances(mean, level).argmin(1)
        mean = quantizer.advance(mean, level, codes[:, level])
    return codes.numpy().astype(np.int16)


def _weighted_mean(x: Tensor, owner: Tensor, weight: Tensor, items: int) -> Tensor:
    total = torch.zeros(items, x.shape[1]).index_add_(0, owner, x * weight[:, None])
    return total / torch.zeros(items).index_add_(0, owner, weight)[:, None]
