"""The resident memory of a server in the course of a load, and what is left of it when the load is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WARM = 0.2
"""Share of a run after which a server has met its load: connections are open, and each bundle has been loaded."""
AROUND = 5
"""Samples beside a moment whose median is the memory at that moment."""


@dataclass
class MemoryCurve:
    """Samples of a process's memory, and the moments at which its bundle changed.

    Attributes:
        seconds: of each sample, since the load began.
        megabytes: at each sample.
        changes: seconds at which a champion was pointed to.
    """

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)

    def add(self, second: float, megabytes: float) -> None:
        """One sample more."""
        self.seconds.append(second)
        self.megabytes.append(megabytes)

    def summary(self) -> dict[str, Any]:
        """Megabytes at the start, warm, before every change of the bundle, at the end and at most, and megabytes a
        minute that a straight line through all warm samples rises by."""
        seconds, megabytes = np.array(self.seconds), np.array(self.megabytes)
        warm = seconds >= WARM * seconds[-1]
        return {
            "start_mb": self.megabytes[0],
            "warm_mb": float(np.median(megabytes[warm][:AROUND])),
            "before_changes_mb": [self._before(second) for second in self.changes],
            "end_mb": float(np.median(megabytes[-AROUND:])),
            "peak_mb": float(megabytes.max()),
            "slope_mb_a_minute": 60 * float(np.polyfit(seconds[warm], megabytes[warm], 1)[0]),
        }

    def _before(self, second: float) -> float:
        earlier = [value for at, value in zip(self.seconds, self.megabytes, strict=True) if at <= second]
        return float(np.median(earlier[-AROUND:]))
