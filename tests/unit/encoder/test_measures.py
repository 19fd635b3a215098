"""Twelve items on a line, two photos held out: what is near is known by hand."""

import numpy as np
import pyarrow as pa
import pytest

from onevision.encoder.measures import Neighbours, clicked_item_recall, family_recall, own_item_recall

ITEMS = [f"item-{n:02d}" for n in range(12)]
ANGLES = np.r_[np.linspace(0, 1.1, 12), 0.02, 0.52]  # photos: beside item-00, and beside item-05
OWNER = [*ITEMS, "item-00", "item-07"]
SPLIT = [*["train"] * 12, "test", "test"]


@pytest.fixture
def neighbours() -> Neighbours:
    embedding = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)
    catalogue = np.array([True] * 12 + [False] * 2)
    return Neighbours.find(embedding, OWNER, catalogue, np.array([12, 13]))


def test_own_items_are_counted_apart_where_they_are_new(neighbours: Neighbours) -> None:
    found = own_item_recall(neighbours, OWNER, SPLIT, trained=set(ITEMS) - {"item-07"})
    # item-07 is fifth from the second photo: 05, 06, 04, 07 at .52 lie at distances .02, .08, .12, .18.
    assert found["test/r@1"] == 0.5
    assert found["test/r@5"] == 1.0
    assert found["test_cold/r@1"] == 0.0
    assert "validation/r@1" not in found


def test_the_first_clicked_item_counts(neighbours: Neighbours) -> None:
    queries = pa.table(
        {
            "image_id": ["p12", "p12", "p13", "p13"],
            "split": ["test", "test", "test", "train"],
            "clicked": [["item-11", "item-00"], ["item-03"], [], ["item-00"]],
        }
    )
    found = clicked_item_recall(neighbours, queries, {"p12": 12, "p13": 13})
    assert found == {"test/clicked_r@10": 0.5, "test/clicked_r@50": 1.0}


def test_look_alikes_are_those_of_the_family_but_not_the_item_itself(neighbours: Neighbours) -> None:
    family = {item: n // 6 for n, item in enumerate(ITEMS)}
    # First photo: 00 to 09 are nearest, so all 5 look-alikes of item-00; the second sees all but two at the ends.
    found = family_recall(neighbours, OWNER, SPLIT, family)
    nearest = neighbours.items[1, :10].tolist()
    expected = sum(n in nearest for n in (6, 8, 9, 10, 11)) / 5
    assert found["test/family_r@10"] == pytest.approx((1 + expected) / 2)
