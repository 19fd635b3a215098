"""What the cascade's ranker knows of a search and a candidate: look, taste, category, price and popularity.

Everything is as it could be known at the time of the search, and nothing later than the end of training: popularity
and earlier shoppers' photos are read as of `min(search time, train_end)`, histories come point in time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from onevision.encoder.thumbnails import PHOTO_SHARPNESS, PHOTOGRAPHED
from onevision.evaluation.click_log import ClickLog
from onevision.evaluation.items import Items
from onevision.evaluation.popularity import Popularity
from onevision.evaluation.searches import HISTORIES, Searches
from onevision.evaluation.segment_taste import SegmentTaste
from onevision.generator.reranker import DECAYS

FEATURES = (
    "view_max",  # cosine of the photo and the candidate's best view
    "view_mean",
    "view_gap",  # how far the best view is behind the nearest neighbour
    "item_cosine",
    "alike",  # on the shop's own pictures, to what was probably photographed: mean over those products
    "alike_gap",  # how far that is behind the most alike of the nearest neighbours
    "alike_any_gap",  # the same of likeness to any of those products, by a log of a sum over them
    "alike_nearest_gap",  # the same, of which the most alike of those products decides more
    "photo_certainty",  # how probably the nearest neighbour is what was photographed
    "photo_max",  # best of the views and of earlier photos that led to a click on the candidate
    *(f"{statistic}_{name}" for name in HISTORIES for statistic in ("max", "mean")),  # cosine with the history
    "style_recent",  # the same without what the category explains: carries taste across categories
    "style_long",
    "thumbnail_recent",  # cosine with the history by the shop's own pictures, less the category's mean
    "thumbnail_long",
    "style_shift",  # along what the user's clicks have more of than the photos they searched with
    "seen",  # times the candidate itself is in the history
    "brand_recent",
    "brand_long",
    "category_long",
    "price",
    "price_level",  # log price against the category's, in deviations
    "price_distance",  # of that level to the history's
    "price_difference",
    "style_segment",  # with what users of the same profile click
    "brand_segment",
    "price_segment",
    "price_against_neighbours",
    "neighbour_category",  # share of the nearest neighbours, by similarity, that is of the candidate's category
    "neighbour_department",
    "item_popularity",
    "category_popularity",
    "brand_popularity",
    "history_length",
    "segment",
)
"""Columns of the ranker's matrix."""
PAGE = ("alike_gap", "alike_any_gap", "alike_nearest_gap", "photo_certainty")
"""What says how a candidate stands among the others, as the reranker of the choice model reads it."""
CATEGORICAL = ("segment",)
NEIGHBOURS = 20
_BRANDS = 64


class FeatureBuilder:
    """Builds the ranker's matrix, one search at a time (what serving would do, and what bounds the memory).

    Args:
        log: the clicks that may be known: how many an item had, after whose photos, and of which profiles.
        thumbnail: (I, t) of the items (`encoder.thumbnails`).
    """

    def __init__(self, items: Items, log: ClickLog, thumbnail: NDArray[np.float32]) -> None:
        self._embedding = items.embedding
        self._popularity = Popularity(items, log.clicked, log.clicked_ts, start=log.start, end=log.end)
        self._views = _Ragged(items.view_item, items.view_embedding, len(items))
        self._photos = _Ragged(log.photo_item, log.photo, len(items), log.photo_ts)
        self._brand = np.unique(items.brand, return_inverse=True)[1]
        self._category = np.unique(items.category, return_inverse=True)[1]
        self._department = np.unique(items.department, return_inverse=True)[1]
        self._log_price = np.log1p(items.price)
        self._price_level = _within(self._log_price, self._category)
        self._style = _style(items.embedding, self._category)
        self._thumbnail, self._picture_style = thumbnail, _style(thumbnail, self._category)
        self._segment = {name: code for code, name in enumerate(log.segments) if name}
        self._brand_vector = _centred_one_hot(self._brand)
        described = np.concatenate([self._style, self._brand_vector, self._price_level[:, None]], axis=1)
        self._segment_taste = SegmentTaste(described, log)

    def build(
        self,
        searches: Searches,
        row: int,
        candidates: NDArray[np.int64],
        neighbours: NDArray[np.int64],
        unseen: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Features (K, F) of the candidates (K,) of one search.

        Args:
            neighbours: the nearest items of the photo, best first.
            unseen: (K,) candidates that are to look as if nobody had clicked them yet; how training learns to treat
                cold items.
        """
        query, ts = searches.embedding[row], int(searches.ts[row])
        histories = {name: searches.histories[name][row] for name in HISTORIES}
        look, shares = self._look(query, ts, candidates, neighbours, unseen)
        taste = self._taste(candidates, histories)
        profile = self._profile(candidates, str(searches.segment[row]), ts)
        prior = self._prior(candidates, ts, unseen)
        code = self._segment.get(str(searches.segment[row]), np.nan)
        length = sum(len(items) for items in histories.values())
        constant = [np.full(len(candidates), value) for value in (np.log1p(length), code)]
        return np.stack([*look, *taste, *profile, *shares, *prior, *constant], axis=1).astype(np.float32)

    def _look(
        self,
        query: NDArray[np.float32],
        ts: int,
        candidates: NDArray[np.int64],
        neighbours: NDArray[np.int64],
        unseen: NDArray[np.bool_] | None,
    ) -> tuple[list[NDArray[np.floating]], list[NDArray[np.floating]]]:
        best, mean = self._views.similarity(query, candidates)
        photo = np.fmax(best, self._photos.similarity(query, candidates, before=ts)[0])
        if unseen is not None:
            photo = np.where(unseen, best, photo)
        near = neighbours[neighbours >= 0][:NEIGHBOURS]
        weight = np.maximum(self._views.similarity(query, near)[0], 1e-3)
        weight /= weight.sum()
        shares: list[NDArray[np.floating]] = [
            np.bincount(label[near], weight, int(label.max()) + 1)[label[candidates]].astype(np.float64)
            for label in (self._category, self._department)
        ]
        level = self._price_level[candidates] - self._price_level[near] @ weight
        nearest = self._views.similarity(query, near[:1])[0]
        alike = self._alike(query, candidates, near)
        look = [best, mean, nearest - best, self._embedding[candidates] @ query, *alike, photo]
        return look, [level, *shares]

    def _alike(
        self, query: NDArray[np.float32], candidates: NDArray[np.int64], near: NDArray[np.int64]
    ) -> list[NDArray[np.floating]]:
        """How alike the candidates' thumbnails are to those of what was probably photographed; by the mean distance,
        and as the reranker of the choice model reads it (`generator.reranker`), against the neighbours' best."""
        photographed = near[:PHOTOGRAPHED]
        cosine = PHOTO_SHARPNESS * self._views.similarity(query, photographed)[0]
        log_p = cosine - logsumexp(cosine)

        def read(items: NDArray[np.int64]) -> NDArray[np.floating]:
            far = np.linalg.norm(self._thumbnail[items][:, None] - self._thumbnail[photographed], axis=2)
            any_of_them = [logsumexp(log_p - decay * far, axis=1) / decay for decay in DECAYS]
            return np.stack([-far @ np.exp(log_p), *any_of_them])

        own = read(candidates)
        gaps = read(near).max(axis=1, keepdims=True) - own
        return [own[0], *gaps, np.full(len(candidates), np.exp(log_p.max()))]

    def _taste(
        self, candidates: NDArray[np.int64], histories: dict[str, NDArray[np.int64]]
    ) -> list[NDArray[np.floating]]:
        own = self._embedding[candidates]
        out: list[NDArray[np.floating]] = []
        for name in HISTORIES:
            out += _max_and_mean(own, self._embedding[histories[name]])
        recent = np.concatenate([histories["recent_clicked"], histories["recent_ordered"]])
        long = np.concatenate([recent, histories["long_history"]])
        style = self._style[candidates]
        out += [_max_and_mean(style, self._style[rows])[1] for rows in (recent, long)]
        pictures = self._picture_style[candidates]
        out += [_max_and_mean(pictures, self._picture_style[rows])[1] for rows in (recent, long)]
        out.append(_shift(style, self._style[histories["recent_clicked"]], self._style[histories["recent_searched"]]))
        out.append((candidates[:, None] == long[None]).sum(axis=1).astype(np.float64))
        out += [_share(self._brand, candidates, rows) for rows in (recent, long)]
        out.append(_share(self._category, candidates, long))
        level = self._price_level[candidates]
        difference = level - self._price_level[long].mean() if len(long) else np.full(len(candidates), np.nan)
        return [*out, self._log_price[candidates], level, np.abs(difference), difference]

    def _profile(self, candidates: NDArray[np.int64], segment: str, ts: int) -> list[NDArray[np.floating]]:
        taste = self._segment_taste.of(segment, ts)
        if taste is None:
            return [np.full(len(candidates), np.nan)] * 3
        style, brand, price = np.split(taste, [self._style.shape[1], len(taste) - 1])
        level = np.abs(self._price_level[candidates] - price)
        return [self._style[candidates] @ style, self._brand_vector[candidates] @ brand, level]

    def _prior(
        self, candidates: NDArray[np.int64], ts: int, unseen: NDArray[np.bool_] | None
    ) -> list[NDArray[np.floating]]:
        item, category, brand = self._popularity.of(candidates, ts)
        if unseen is not None:
            item = np.where(unseen, category, item)
        return [item, category, brand]


class _Ragged:
    """Vectors grouped by item, for the best and the mean similarity of an item's vectors with a query."""

    def __init__(
        self,
        item: NDArray[np.int64],
        vectors: NDArray[np.float32],
        items: int,
        ts: NDArray[np.int64] | None = None,
    ) -> None:
        order = np.argsort(item, kind="stable")
        self._vectors = vectors[order]
        self._ts = None if ts is None else ts[order]
        self._bounds = np.searchsorted(item[order], np.arange(items + 1))

    def similarity(
        self, query: NDArray[np.float32], items: NDArray[np.int64], before: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Largest and mean cosine similarity with each item's vectors, NaN for an item without any."""
        low, count = self._bounds[items], self._bounds[items + 1] - self._bounds[items]
        owner = np.repeat(np.arange(len(items)), count)
        index = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        value = (self._vectors[index] @ query).astype(np.float64)
        if before is not None and self._ts is not None:
            known = self._ts[index] < before
            owner, value = owner[known], value[known]
            count = np.bincount(owner, minlength=len(items))
        best = np.full(len(items), -np.inf)
        np.maximum.at(best, owner, value)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(owner, value, minlength=len(items)) / count
        return np.where(count > 0, best, np.nan), mean


def _max_and_mean(
    own: NDArray[np.float32], history: NDArray[np.float32]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    if not len(history):
        return np.full(len(own), np.nan), np.full(len(own), np.nan)
    similarity = own @ history.T
    return similarity.max(axis=1), similarity.mean(axis=1)


def _shift(
    own: NDArray[np.float32], clicked: NDArray[np.float32], searched: NDArray[np.float32]
) -> NDArray[np.floating]:
    if not len(clicked) or not len(searched):
        return np.full(len(own), np.nan)
    return own @ (clicked.mean(axis=0) - searched.mean(axis=0))


def _style(vectors: NDArray[np.float32], category: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors (I, d) without what the category explains, of unit length."""
    mean = np.stack([_group_mean(column, category) for column in vectors.T], axis=1)
    style = vectors - mean[category]
    return (style / np.maximum(np.linalg.norm(style, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _centred_one_hot(label: NDArray[np.int64]) -> NDArray[np.float32]:
    """(I, at most `_BRANDS`) membership in the commonest labels, less their share: 0 means "like anybody's"."""
    counts = np.bincount(label)
    commonest = np.argsort(-counts, kind="stable")[:_BRANDS]
    return ((label[:, None] == commonest) - counts[commonest] / len(label)).astype(np.float32)


def _share(label: NDArray[np.int64], candidates: NDArray[np.int64], history: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the history with the candidate's label, shrunk towards none (two pseudo-items)."""
    counts = np.bincount(label[history], minlength=int(label.max()) + 1)
    return counts[label[candidates]] / (len(history) + 2.0)


def _group_mean(values: NDArray[np.floating], group: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(group, values) / np.bincount(group)


def _within(values: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values centred and scaled inside each group."""
    centred = values - _group_mean(values, group)[group]
    return centred / np.sqrt(np.maximum(_group_mean(centred**2, group), 1e-6))[group]
