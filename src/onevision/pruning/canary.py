"""Whether pruning does to the first searches of a loaded bundle what it did when it was calibrated.

Calibration remembers between which bounds the means of so many searches lay, of image tokens that were kept, of codes
that the beams read, and where a setting leaves these out of tokens of the histories, of those that the last code
attends to, of looks at a photo, and of patches that stayed in the image tower. A server whose first searches
lie elsewhere sees other photos, shoppers or items than the setting was chosen for: it says so loudly, and searches in
full from then on. Photos that warm a server up are no searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onevision.artifacts import read_json
from onevision.decoding.ranker import Ranking

SEARCHES = 50
"""Searches that are watched."""
WINDOWS = 2000
KEPT_TOKENS, CODES_READ = "image tokens", "codes read by beams"
HISTORY_TOKENS, LAST_CONTEXT = "history tokens", "tokens that the last code attends to"
LOOKS, PATCHES = "looks at a photo", "patches in the tower"


def counts_of(ranking: Ranking) -> dict[str, NDArray[np.int64]]:
    """What a search for each of Q queries took, (Q,)."""
    return {
        KEPT_TOKENS: ranking.kept_tokens,
        HISTORY_TOKENS: ranking.history_tokens,
        LAST_CONTEXT: ranking.last_context,
        CODES_READ: ranking.steps,
    }


@dataclass(frozen=True)
class Seen:
    """Lowest and highest mean of `SEARCHES` searches that calibration saw, by what was counted, at this many beams."""

    bounds: dict[str, tuple[float, float]]
    beam_width: int

    @classmethod
    def measure(cls, counted: dict[str, NDArray[Any]], beam_width: int, seed: int) -> Seen:
        """From counts (Q,) of the calibration searches: the bounds of means over searches drawn from them."""
        bounds = {}
        for name, values in counted.items():
            drawn = np.random.default_rng([seed, 11]).integers(0, len(values), (WINDOWS, SEARCHES))
            means = values[drawn].mean(axis=1)
            bounds[name] = (float(means.min()), float(means.max()))
        return cls(bounds, beam_width)

    @classmethod
    def read(cls, path: Path) -> Seen | None:
        """Of `pruning.json`; None where nothing is pruned."""
        value = read_json(path).get("canary")
        if value is None:
            return None
        return cls({name: (low, high) for name, (low, high) in value["bounds"].items()}, value["beam_width"])

    def as_dict(self) -> dict[str, Any]:
        """For `pruning.json`."""
        return {"searches": SEARCHES, "bounds": self.bounds, "beam_width": self.beam_width}


class Canary:
    """Watches the first searches, once."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._counted: dict[str, list[float]] = {name: [] for name in seen.bounds}
        self.watching = True

    def watch(self, counted: dict[str, NDArray[Any]]) -> str | None:
        """Take note of searches (Q,), by all names that calibration saw; with the last of those that are watched, what
        is wrong, if anything is."""
        if not self.watching:
            return None
        for name, values in self._counted.items():
            values += counted[name].tolist()
        if min(map(len, self._counted.values())) < SEARCHES:
            return None
        self.watching = False
        wrong = []
        for name, seen in self._counted.items():
            mean, (low, high) = float(np.mean(seen[:SEARCHES])), self._seen.bounds[name]
            if not low <= mean <= high:
                wrong.append(f"{mean:.4g} {name} a search, {low:.4g} to {high:.4g} when it was calibrated")
        if not wrong:
            return None
        return f"pruning is off: the first {SEARCHES} searches had {' and '.join(wrong)}; run calibrate-pruning again"
