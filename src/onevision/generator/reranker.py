"""A listwise reranker of the first places, on top of the choice model [ours].

    log pi'(j) = log pi(j) + h(x_j) - log sum_k pi(k) exp h(x_k) + log sum_k pi(k),   over the first PLACES

A choice model gives every candidate a score of its own. x_j holds what such a score cannot say: how the candidate
stands to the best of the page and to what is expected of the page in everything that the choice is made by, how sure
the page is, and how alike the candidate is to each of the products that may have been photographed,

    alike_l(j) = 1/l log sum_x p(x | photo) exp(-l |t_x - t_j|),

with thumbnails t: the choice model reads the mean of the distances, which is none of them where two products may be
meant. h is a small network that is 0 for all before it is fitted; it is a residual, so the page keeps the probability
that the choice model gave it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onevision.encoder.thumbnails import PHOTOGRAPHED

PLACES = 60
"""So many of the first candidates are read."""
DECAYS = (1.0, 3.0)
"""l: of a large one the nearest of the products that may have been photographed decides."""
HIDDEN = 16
DROPOUT = 0.1
LARGEST = 6.0
"""Standardised features are clipped there: a page unlike any that was seen should not turn the order over."""
MISSING = -1e9
"""Instead of minus infinity, whose gradient is not a number."""


class Page(NamedTuple):
    """The first K places of B searches: columns (B, K) of the slate, what is read of them (B, K, F), their
    log-probabilities (B, K), and whether there is an item (B, K)."""

    columns: Tensor
    read: Tensor
    log_p: Tensor
    there: Tensor

    def take(self, rows: Tensor) -> Page:
        """These searches."""
        return Page(*(value[rows] for value in self))


class Reranker(nn.Module):
    """h: reads `features` of an item and its page."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.hidden, self.out = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.dropout = nn.Dropout(DROPOUT)

    def standardise(self, page: Page) -> None:
        """Take mean and deviation of what is read from these pages."""
        read = page.read[page.there]
        deviation = read.std(0)
        # What is the same everywhere is not read.
        self.mean, self.deviation = read.mean(0), torch.where(deviation > 1e-3, deviation, torch.inf)

    def forward(self, page: Page) -> Tensor:
        """log pi' (B, K) within the page: its probabilities sum to 1; hopelessly low where there is no item."""
        read = ((page.read - self.mean) / self.deviation).clamp(-LARGEST, LARGEST)
        gained = self.out(self.dropout(F.gelu(self.hidden(read)))).squeeze(-1)
        log_p: Tensor = (page.log_p + gained).masked_fill(~page.there, MISSING).log_softmax(1)
        return log_p

    @torch.no_grad()
    def rerank(self, scores: Tensor, page: Page) -> Tensor:
        """Scores (B, C) of the slate with those of the page (B, K) replaced; what is not there stays as it is."""
        whole = page.log_p.masked_fill(~page.there, MISSING).logsumexp(1, keepdim=True)
        return scores.scatter(1, page.columns, torch.where(page.there, self(page) + whole, page.log_p))

    def flops(self, found: float, alike: int) -> float:
        """FLOPs (2 a multiply-add) with so many candidates found; `alike` multiply-adds make the distances of one."""
        return 2 * min(found, PLACES) * (alike + (len(self.mean) + 1) * HIDDEN)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Reranker:
        """The reranker with this state."""
        model = cls(len(tensors["mean"]))
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)


@torch.no_grad()
def read_page(
    features: Tensor, scores: Tensor, items: Tensor, photographed: Tensor, thumbnail: Tensor, known: Tensor
) -> Page:
    """The first places by `scores`, and what a reranker reads of them.

    Args:
        features: (B, C, f) that the choice is made by.
        scores: (B, C) log-probabilities; items: (B, C), -1 for none.
        photographed: (B, C) log of how probably each is what was photographed, up to a constant.
        thumbnail: (I, t) of all items; known: (B,) how many items the shopper's histories hold.
    """
    log_p, columns = scores.masked_fill(items < 0, MISSING).topk(min(PLACES, scores.shape[1]), dim=1)
    items = items.gather(1, columns)
    there = items >= 0
    missing = ~there[..., None]
    own = features.gather(1, columns[..., None].expand(-1, -1, features.shape[2])).masked_fill(missing, 0.0)
    probability = log_p.softmax(1)[..., None]
    best = own.masked_fill(missing, -torch.inf).amax(1, keepdim=True)
    expected = (probability * own).sum(1, keepdim=True)
    alike = _alike(items.clamp_min(0), photographed.gather(1, columns).masked_fill(~there, MISSING), thumbnail)
    entropy = -(probability * log_p[..., None]).sum(1, keepdim=True)
    of_the_page = torch.cat([expected, entropy, known.log1p()[:, None, None]], 2).expand(-1, own.shape[1], -1)
    read = [own - best, own - expected, alike - alike.amax(1, keepdim=True), log_p[..., None], of_the_page]
    return Page(columns, torch.cat(read, 2).masked_fill(missing, 0.0), log_p, there)


def _alike(items: Tensor, photographed: Tensor, thumbnail: Tensor) -> Tensor:
    """alike_l(j) (B, K, len(DECAYS)) of items (B, K)."""
    probable, place = photographed.topk(min(PHOTOGRAPHED, items.shape[1]), dim=1)
    distance = torch.cdist(F.embedding(items.gather(1, place), thumbnail), F.embedding(items, thumbnail))
    log_p = probable.log_softmax(1)[..., None]
    return torch.stack([(log_p - decay * distance).logsumexp(1) / decay for decay in DECAYS], -1)
