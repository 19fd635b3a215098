"""What the cascade knows of the click log, nothing of it later than the end of training, and the files that keep it.

It holds vectors of shoppers' photos and what shoppers of a profile clicked on a day, though no shopper's key: whoever
keeps a trained cascade keeps these too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from onevision.artifacts import read_json, write_json
from onevision.evaluation.searches import Searches

ARRAYS, SETTINGS = "clicks.safetensors", "clicks.json"
MICROSECONDS_A_DAY = 86_400_000_000
PHOTOS_AN_ITEM = 64
"""The newest ones are kept, so that one popular item cannot fill the memory."""


@dataclass(frozen=True)
class ClickLog:
    """Clicks before `end`, in the three forms that the ranker's features are computed from; items are catalogue rows.

    Attributes:
        start, end: the log's bounds, microseconds since 1970.
        clicked, clicked_ts: (E,) item and time of every click.
        photo, photo_item, photo_ts: (P, d) photos of training searches, the item that each one's user clicked, (P,),
            and when.
        segments: profiles; those of training searches, sorted, "" where there is none.
        segment, segment_day, segment_item: (S,) clicks of users with a profile: its place in `segments`, the day since
            1970, the item.
    """

    start: int
    end: int
    clicked: NDArray[np.int64]
    clicked_ts: NDArray[np.int64]
    photo: NDArray[np.float32]
    photo_item: NDArray[np.int64]
    photo_ts: NDArray[np.int64]
    segments: list[str]
    segment: NDArray[np.int64]
    segment_day: NDArray[np.int64]
    segment_item: NDArray[np.int64]

    @classmethod
    def of(cls, training: Searches, clicked: NDArray[np.int64], ts: NDArray[np.int64], end: int) -> ClickLog:
        """What may be learned before `end` from training searches, and from all clicks (E,) and their times."""
        known = ts < end
        pairs = [(row, item) for row, items in enumerate(training.clicked) if training.ts[row] < end for item in items]
        search, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        segments = sorted(set(training.segment.tolist()))
        code = np.searchsorted(np.array(segments, dtype=np.str_), training.segment)[search]
        told = training.segment[search] != ""
        newest = _newest_of_each(item, training.ts[search])
        return cls(
            start=min(int(ts.min(initial=end)), end - 1),
            end=end,
            clicked=clicked[known],
            clicked_ts=ts[known],
            photo=training.embedding[search[newest]],
            photo_item=item[newest],
            photo_ts=training.ts[search[newest]],
            segments=segments,
            segment=code[told],
            segment_day=training.ts[search[told]] // MICROSECONDS_A_DAY,
            segment_item=item[told],
        )

    def save(self, folder: Path) -> None:
        """Write `clicks.safetensors` and `clicks.json`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
        save_file(arrays, folder / ARRAYS)
        write_json(folder / SETTINGS, {name: v for name, v in values.items() if name not in arrays})

    @classmethod
    def load(cls, folder: Path) -> ClickLog:
        """Read what `save` wrote."""
        return cls(**load_file(folder / ARRAYS), **read_json(folder / SETTINGS))


def _newest_of_each(item: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the newest photos of each item."""
    order = np.lexsort((-ts, item))
    place = np.arange(len(item)) - np.searchsorted(item[order], item[order])
    return order[place < PHOTOS_AN_ITEM]
