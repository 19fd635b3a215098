"""The split by time, and the split of every picture that follows from it.

Training ends where the validation days begin. A picture belongs to the latest split that has any part in it: the
last search it was sent with (or its own date, where it was never sent), and the date its item entered the catalogue.
A training picture that is a near copy of a held-out one follows it out of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.errors import OneVisionError
from onevision.pairing.mining import SPLIT_OF, VIEW_ORDER

SPLITS = ("train", "validation", "test")
CATALOGUE_COLD = "catalogue_cold"

PICTURES = f"""
CREATE TABLE dated_pictures AS
WITH sent AS (
  SELECT image_id, MIN(ts) AS first_sent, MAX(ts) AS last_sent FROM searches GROUP BY image_id
), dated AS (
  SELECT p.image_id, p.item_id, p.view, p.view IN {CATALOGUE_VIEWS} AS catalogue,
    COALESCE(s.first_sent, p.created_at) AS seen,
    GREATEST(COALESCE(s.last_sent, p.created_at), i.created_at) AS settled,
    COALESCE(s.last_sent >= $train_end, FALSE) AS asked_later
  FROM images p
  LEFT JOIN sent s ON p.image_id = s.image_id
  LEFT JOIN items i ON p.item_id = i.item_id
)
SELECT image_id, item_id, view, catalogue, seen, {SPLIT_OF.format(ts="settled")} AS split,
  asked_later OR (settled >= $train_end AND NOT catalogue) AS held_out
FROM dated
"""
"""Every picture: when it was first seen, the split it belongs to, and whether nothing like it may be trained on.
A catalogue view that comes later is cold, which only keeps that view itself out of training."""

RANKED_PICTURES = f"""
SELECT image_id, item_id, split, held_out FROM dated_pictures ORDER BY {VIEW_ORDER}, image_id
"""
"""Pictures in the order in which one stands for its near copies: catalogue views first."""

SETTLED_PICTURES = """
CREATE TABLE pictures AS
SELECT d.image_id, d.item_id, d.view, d.catalogue, d.seen, s.split, s.picture, s.representative, i.item
FROM dated_pictures d
JOIN settled s ON d.image_id = s.image_id
LEFT JOIN numbered_items i ON d.item_id = i.item_id
"""
"""The pictures by number, after `settled` moved near copies: their split, and the picture that stands for each."""


@dataclass(frozen=True)
class TimeSplit:
    """Borders of the split by time: train < train_end <= validation < validation_end <= test <= as_of."""

    train_end: datetime
    validation_end: datetime
    as_of: datetime

    @classmethod
    def before(cls, as_of: datetime, validation_days: int, test_days: int) -> TimeSplit:
        """The last `test_days` days before `as_of` are test, the `validation_days` before those validation."""
        validation_end = as_of - timedelta(days=test_days)
        return cls(validation_end - timedelta(days=validation_days), validation_end, as_of)

    def microseconds(self) -> dict[str, int]:
        """The borders as SQL takes them: microseconds since 1970 (UTC)."""
        return {name: to_microseconds(time) for name, time in vars(self).items()}

    def iso(self) -> dict[str, str]:
        """The borders as ISO times."""
        return {name: time.isoformat() for name, time in vars(self).items()}


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970 of an aware time, exactly."""
    return (time - datetime.fromtimestamp(0, tz=time.tzinfo)) // timedelta(microseconds=1)


def require_training_events(split: TimeSplit, first: datetime | None, days: int) -> None:
    """`OneVisionError` if no event lies before the end of training; `first` is the time of the first event."""
    if first is None:
        raise OneVisionError("the snapshot has no events; pairs are mined from searches, clicks and orders")
    if first >= split.train_end:
        had = (split.as_of - first) / timedelta(days=1)
        raise OneVisionError(
            f"no events in the training days: training ends {split.train_end.isoformat()}, the first event is "
            f"{first.isoformat()}. The snapshot covers {had:.1f} days and {days} are held out; "
            "lower pairing.validation_days and pairing.test_days, or use a snapshot of more days"
        )


def split_names(split: np.ndarray, catalogue: np.ndarray) -> pa.Array:
    """Names of the splits; a catalogue view outside training is `catalogue_cold`."""
    names = np.array(SPLITS, dtype=object)[split]
    names[catalogue & (split > 0)] = CATALOGUE_COLD
    return pa.array(names, pa.string())
