"""What shoppers of one profile click, as known the day before: taste for those whose own history is short."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onevision.evaluation.searches import Searches

_MICROSECONDS_A_DAY = 86_400_000_000
_PSEUDO_CLICKS = 20.0


class SegmentTaste:
    """Mean item vector of the clicks of each segment on the days before a time, never later than `end`.

    Args:
        vectors: (I, D) whatever describes an item; a segment is shrunk towards 0, which must mean "like anybody's".
        segments: profiles; a search of another one gets NaN.
        end: clicks at or after this time (microseconds) are not looked at.
    """

    def __init__(self, vectors: NDArray[np.floating], searches: Searches, segments: list[str], *, end: int) -> None:
        self._code = {name: code for code, name in enumerate(segments) if name}
        known = [
            (code, ts // _MICROSECONDS_A_DAY, item)
            for name, ts, clicked in zip(searches.segment.tolist(), searches.ts.tolist(), searches.clicked, strict=True)
            if ts < end and (code := self._code.get(name)) is not None
            for item in clicked
        ]
        segment, day, item = np.array(known, dtype=np.int64).reshape(-1, 3).T
        self._first = int(day.min(initial=end // _MICROSECONDS_A_DAY))
        self._days = end // _MICROSECONDS_A_DAY - self._first + 1
        sums = np.zeros((len(segments), self._days + 1, vectors.shape[1]))
        counts = np.zeros((len(segments), self._days + 1, 1))
        np.add.at(sums, (segment, day - self._first + 1), vectors[item])
        np.add.at(counts, (segment, day - self._first + 1), 1.0)
        self._mean = sums.cumsum(axis=1) / (counts.cumsum(axis=1) + _PSEUDO_CLICKS)

    def of(self, segment: str, ts: int) -> NDArray[np.float64] | None:
        """The segment's vector (D,) on the days before `ts`; None for an unknown segment."""
        code = self._code.get(segment)
        if code is None:
            return None
        return self._mean[code, int(np.clip(ts // _MICROSECONDS_A_DAY - self._first, 0, self._days - 1))]
