"""One semantic ID an item, from all of its catalogue views (method section 5).

Shallow codes are voted by the views, deep codes come from the mean residual along the voted path. An item's ID
depends on its own views alone: not on other items, on the order of rows, or on how items are cut into batches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.quantization.residual import ResidualQuantizer
from onevision.semantic_ids.config import SemanticIdsConfig


class Assignment(NamedTuple):
    """`codes` (I, L) int16; `embedding` (I, d) float32, unit length; `vote` (V,) float32, 0 for outlying views."""

    codes: NDArray[np.int16]
    embedding: NDArray[np.float32]
    vote: NDArray[np.float32]


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
    vote = np.where(is_main, config.main_view_weight, 1.0).astype(np.float32)
    vote[find_outliers(view_embedding, view_item, config.outlier_cosine)] = 0
    views, owner, weight = _voting(view_embedding, view_item, vote)
    codes = _vote(quantizer, views, owner, weight, items, config.voted_levels)
    mean = _weighted_mean(views, owner, weight, items)
    return Assignment(codes, torch.nn.functional.normalize(mean, dim=1).numpy(), vote)


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
def mean_vectors(
    view_embedding: NDArray[np.float32],
    view_item: NDArray[np.int64],
    vote: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Means (I, d) of the items' views, weighted by their votes; arguments as `assign` takes them."""
    views, owner, weight = _voting(view_embedding, view_item, vote)
    return _weighted_mean(views, owner, weight, int(view_item[-1]) + 1).numpy()


def _voting(
    view_embedding: NDArray[np.float32], view_item: NDArray[np.int64], vote: NDArray[np.float32]
) -> tuple[Tensor, Tensor, Tensor]:
    """The views that vote, their items and weights."""
    rows = np.flatnonzero(vote)
    views = np.ascontiguousarray(view_embedding[rows], dtype=np.float32)
    return torch.from_numpy(views), torch.from_numpy(view_item[rows]), torch.from_numpy(vote[rows])


@torch.inference_mode()
def _vote(
    quantizer: ResidualQuantizer, views: Tensor, owner: Tensor, weight: Tensor, items: int, voted_levels: int
) -> NDArray[np.int16]:
    rest = views
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
