"""A contact sheet of items that share their first code, or their first two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.data.snapshot import Snapshot
from onevision.report import Figure
from onevision.reporting.pictures import Thumbnails, contact_sheet

PREFIXES, ITEMS_A_ROW, TILE = 3, 10, 72


def prefix_sheet(snapshot: Snapshot, item_ids: list[str], codes: NDArray[np.integer]) -> Figure:
    """Rows of items of the commonest first codes, each followed by a row of its commonest pair of codes."""
    shown = Thumbnails(snapshot, TILE)
    rows, labels = [], []
    first, counts = np.unique(codes[:, 0], return_counts=True)
    for code in first[np.argsort(-counts, kind="stable")][:PREFIXES]:
        below = np.flatnonzero(codes[:, 0] == code)
        second, sizes = np.unique(codes[below, 1], return_counts=True)
        commonest = second[sizes.argmax()]
        pair = below[codes[below, 1] == commonest]
        for members, name in ((below, f"{code}"), (pair, f"{code}, {commonest}")):
            spread = members[np.linspace(0, len(members) - 1, min(ITEMS_A_ROW, len(members))).astype(np.int64)]
            pictures = [shown.item_pixels(item_ids[item]) for item in spread]
            rows.append([pixels for pixels in pictures if pixels is not None])
            labels.append(f"{name}: {len(members)} items")
    caption = "Of the three commonest first codes: items that share it, and items that share the second one too."
    return Figure("Items that share a prefix", "png", contact_sheet(rows, labels, tile=TILE), caption)
