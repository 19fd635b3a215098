"""What tastes can hold on to in an item: how it looks within its category, its brand, and its price.

Searching shoppers have settled on a category already, so everything is taken against the category's mean, and a taste
never prefers one category to another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.semantic_ids.catalogue import Catalogue

LOOK_DIRECTIONS = 24
"""Principal directions kept of the embeddings, of the patch tokens, and of the thumbnails."""
BRANDS = 64
BRAND_SCALE = 4.0
"""A brand's column has little variance; whitened directions have 1."""


def item_traits(
    catalogue: Catalogue, snapshot: Snapshot, encoder: Path, thumbnail: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Traits (I, F) of all items of the catalogue: look (embedding, tokens, thumbnail (I, t)), brand, price."""
    category = np.unique(catalogue.table["category_id"].to_pylist(), return_inverse=True)[1]
    embedding = within_groups(catalogue.embedding, category)
    tokens = within_groups(_pooled_tokens(catalogue, encoder), category)
    price = within_groups(np.log1p(catalogue.table["price"].to_numpy())[:, None], category)
    looks = [whiten(look, LOOK_DIRECTIONS) for look in (embedding, tokens, centred(thumbnail, category))]
    return np.concatenate([*looks, _brands(catalogue, snapshot), price], axis=1).astype(np.float32)


def within_groups(values: NDArray[np.floating], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Columns (I, F) less the mean of their group (I,), then scaled to deviation 1; constant columns are 0."""
    less = centred(values, group)
    deviation = less.std(axis=0)
    return less / np.where(deviation > 1e-6, deviation, 1.0)


def centred(values: NDArray[np.floating], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Columns (I, F) less the mean of their group (I,)."""
    counts = np.bincount(group)
    mean = np.stack([np.bincount(group, column) / counts for column in values.T], axis=1)
    return values - mean[group]


def whiten(values: NDArray[np.floating], directions: int) -> NDArray[np.float64]:
    """The first principal directions (I, at most `directions`) of centred columns, each with variance 1."""
    covariance = values.T @ values / len(values)
    variance, axes = np.linalg.eigh(covariance)
    order = np.argsort(-variance, kind="stable")[:directions]
    order = order[variance[order] > 1e-6 * max(variance.max(), 1e-12)]
    return values @ (axes[:, order] / np.sqrt(variance[order]))


def _pooled_tokens(catalogue: Catalogue, encoder: Path) -> NDArray[np.float64]:
    """(I, 2 C) mean and deviation of the patch tokens of an item's catalogue pictures; 0 for an item without any.

    The embedding forgets what sets variants of one product apart, colour for one; the tokens still know.
    """
    images = pq.read_table(encoder / "images.parquet", columns=["item_id", "view"])
    tokens = load_file(encoder / "tokens.safetensors")["tokens"]
    item = pc.fill_null(pc.index_in(images["item_id"], pa.array(catalogue.item_ids)), -1).to_numpy()
    rows = np.flatnonzero((item >= 0) & np.isin(images["view"].to_pylist(), CATALOGUE_VIEWS))
    sums = np.zeros((len(catalogue.item_ids), 2 * tokens.shape[2]))
    for part in np.array_split(rows, len(rows) // 4096 + 1):
        seen = tokens[part].astype(np.float32)
        np.add.at(sums, item[part], np.concatenate([seen.mean(axis=1), seen.std(axis=1)], axis=1))
    return sums / np.maximum(np.bincount(item[rows], minlength=len(sums)), 1)[:, None]


def _brands(catalogue: Catalogue, snapshot: Snapshot) -> NDArray[np.float64]:
    """(I, at most `BRANDS`) membership in the commonest brands, less each one's share: 0 means "like anybody's"."""
    shop = snapshot.table("items")
    place = pc.index_in(pa.array(catalogue.item_ids), shop["item_id"].combine_chunks())
    brand = np.unique(shop["brand"].fill_null("").take(place).to_pylist(), return_inverse=True)[1]
    counts = np.bincount(brand)
    commonest = np.argsort(-counts, kind="stable")[:BRANDS]
    return BRAND_SCALE * ((brand[:, None] == commonest) - counts[commonest] / len(brand))
