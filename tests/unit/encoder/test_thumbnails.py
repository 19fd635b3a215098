"""Thumbnails of the shop's main pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.images import load_pixels
from onevision.data.snapshot import Snapshot
from onevision.encoder import thumbnails
from onevision.encoder.thumbnails import DIRECTIONS, SIDE, item_thumbnails


def plain(shop: Snapshot, items: list[str]) -> np.ndarray:
    """Thumbnails as they are, by a loop."""
    rows = shop.table("images").to_pylist()
    pictures = []
    for item in items:
        views = [row for row in rows if row["item_id"] == item and row["view"] in CATALOGUE_VIEWS]
        first = min(views, key=lambda row: CATALOGUE_VIEWS.index(row["view"]))
        pictures.append(load_pixels(shop.images, [first["image_id"]], SIDE)[0].ravel() / 255)
    return np.array(pictures)


def test_distances_are_those_of_the_pictures(tiny_snapshot: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    items = shop.table("items")["item_id"].to_pylist()
    vectors, pictures = item_thumbnails(shop, items), plain(shop, items)
    assert vectors.shape == (len(items), DIRECTIONS)
    assert vectors.dtype == np.float32
    between = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (vectors.astype(np.float64), pictures)]
    assert np.corrcoef(between[0].ravel(), between[1].ravel())[0, 1] > 0.99
    assert (between[0] <= between[1] + 1e-4).all()  # a projection


def test_the_order_of_the_items_is_that_asked_for(tiny_snapshot: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    items = shop.table("items")["item_id"].to_pylist()
    there, back = item_thumbnails(shop, items), item_thumbnails(shop, items[::-1])[::-1]
    np.testing.assert_allclose(there @ there.T, back @ back.T, atol=1e-3)


def test_the_size_of_a_chunk_changes_nothing(tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Snapshot.open(tiny_snapshot)
    items = shop.table("items")["item_id"].to_pylist()
    whole = item_thumbnails(shop, items)
    monkeypatch.setattr(thumbnails, "CHUNK", 7)
    parts = item_thumbnails(shop, items)
    np.testing.assert_allclose(parts @ parts.T, whole @ whole.T, atol=1e-4)


def test_an_item_without_a_picture_is_like_the_others_mean(tiny_snapshot: Path) -> None:
    shop = Snapshot.open(tiny_snapshot)
    items = shop.table("items")["item_id"].to_pylist()
    vectors = item_thumbnails(shop, ["nobody's", *items])
    assert (vectors[0] == 0).all()
    assert vectors[1:].mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert (item_thumbnails(shop, ["nobody's"]) == 0).all()
