"""How near the grocery snapshot's validation and test photos are to its training photos, by pixels alone.

    python benchmarks/bench_grocery_splits.py DIR     # written by: onevision snapshot grocery --out DIR

Each photo becomes 24 x 24 grey pixels of zero mean and unit length; the nearest training photo votes for its class.
A high share right means shared scenes, not skill: no pixel classifier knows groceries.
"""

from __future__ import annotations

import sys

import numpy as np

from onevision.data.grocery_events import TRAIN_END, VALIDATION_END
from onevision.data.images import load_pixels
from onevision.data.snapshot import Snapshot


def main() -> None:
    snapshot = Snapshot.open(sys.argv[1])
    images = snapshot.table("images").to_pandas()
    images = images[images["view"] == "user_photo"]
    split = np.select([images["created_at"] < TRAIN_END, images["created_at"] < VALIDATION_END], [0, 1], 2)
    grey = load_pixels(snapshot.images, images["image_id"].tolist(), 24).mean(axis=3).reshape(len(images), -1)
    grey -= grey.mean(axis=1, keepdims=True)
    grey /= np.linalg.norm(grey, axis=1, keepdims=True)
    item, train = images["item_id"].to_numpy(), split == 0
    for number, name in ((1, "validation"), (2, "test")):
        mine = split == number
        nearest = (grey[mine] @ grey[train].T).argmax(axis=1)
        right = (item[train][nearest] == item[mine]).mean()
        print(f"{name}: {mine.sum()} photos, class of the nearest training photo right: {right:.1%}")


if __name__ == "__main__":
    main()
