"""Thumbnails of the shop's main pictures: how alike two products look, without anything learnt [ours].

The shop shows its products in one pose, before one background and in one light, so that two main pictures can be laid
over each other. A photo cannot be laid over either; for that there is the encoder, whose vectors forget what does not
tell products apart. Of two products of the shop thumbnails say better how alike they are (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.images import load_pixels
from onevision.data.snapshot import Snapshot

SIDE = 16
"""Pixels a side."""
DIRECTIONS = 64
"""Principal directions kept."""
PHOTOGRAPHED, PHOTO_SHARPNESS = 8, 40.0
"""What was photographed is one of so many items, by the softmax of their cosines with the photo times this."""
CHUNK = 8192
"""Items whose pixels are held as numbers with a point at once; the others stay bytes."""


def item_thumbnails(snapshot: Snapshot, item_ids: Sequence[str]) -> NDArray[np.float32]:
    """Vectors (I, `DIRECTIONS`) whose Euclidean distance is that of the thumbnails, of channels from 0 to 1.

    An item's picture is its first in the order of `CATALOGUE_VIEWS`; an item without any is the mean of the others.
    """
    images = snapshot.table("images")
    item = pc.fill_null(pc.index_in(images["item_id"], pa.array(item_ids, pa.string())), -1).to_numpy()
    view = pc.fill_null(pc.index_in(images["view"], pa.array(CATALOGUE_VIEWS)), -1).to_numpy()
    rows = np.flatnonzero((item >= 0) & (view >= 0))
    rows = rows[np.argsort(view[rows], kind="stable")]
    shown, first = np.unique(item[rows], return_index=True)
    vectors = np.zeros((len(item_ids), DIRECTIONS), np.float32)
    if not len(shown):
        return vectors
    pictures = load_pixels(snapshot.images, images["image_id"].take(rows[first]).to_pylist(), SIDE)
    chunks = np.array_split(pictures.reshape(len(shown), -1), len(shown) // CHUNK + 1)
    mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in chunks) / len(shown)
    scatter = sum((chunk - mean).T @ (chunk - mean) for chunk in chunks)
    variance, axes = np.linalg.eigh(scatter)
    kept = axes[:, np.argsort(-variance, kind="stable")[:DIRECTIONS]] / 255
    vectors[shown] = np.concatenate([(chunk - mean) @ kept for chunk in chunks])
    return vectors
