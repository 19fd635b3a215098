"""What shoppers of one profile click, as known the day before: taste for those whose own history is short."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.evaluation.click_log import MICROSECONDS_A_DAY, ClickLog

_PSEUDO_CLICKS = 20.0


class SegmentTaste:
    """Mean item vector of the clicks of each segment on the days before a time, never later than `end`.

    Args:
        vectors: (I, D) whatever describes an item; a segment is shrunk towards 0, which must mean "like anybody's".
        log: what was clicked by whom; a search of another profile gets NaN.
    """

    def __init__(self, vectors: NDArray[np.floating], log: ClickLog) -> None:
        self._code = {name: code for code, name in enumerate(log.segments) if name}
        last = log.end // MICROSECONDS_A_DAY
        self._first = int(log.segment_day.min(initial=last))
        self._days = last - self._first + 1
        sums = np.zeros((len(log.segments), self._days + 1, vectors.shape[1]))
        counts = np.zeros((len(log.segments), self._days + 1, 1))
        np.add.at(sums, (log.segment, log.segment_day - self._first + 1), vectors[log.segment_item])
        np.add.at(counts, (log.segment, log.segment_day - self._first + 1), 1.0)
        self._mean = sums.cumsum(axis=1) / (counts.cumsum(axis=1) + _PSEUDO_CLICKS)

    def of(self, segment: str, ts: int) -> NDArray[np.float64] | None:
        """The segment's vector (D,) on the days before `ts`; None for an unknown segment."""
        code = self._code.get(segment)
        if code is None:
            return None
        return self._mean[code, int(np.clip(ts // MICROSECONDS_A_DAY - self._first, 0, self._days - 1))]
