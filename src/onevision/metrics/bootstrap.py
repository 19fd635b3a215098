"""How sure a mean over queries is: the percentile bootstrap, seeded.

Queries are drawn with replacement; systems are compared on the *same* draws (pairs), which is what makes a small
difference visible between two systems that fail on the same queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_interval(values: ArrayLike, samples: int = 1000, seed: int = 0) -> Interval:
    """Mean of `values` (n,) and its 95 % percentile-bootstrap interval.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    return mean_intervals(np.asarray(values, dtype=np.float64)[:, None], samples, seed)[0]


def mean_intervals(values: NDArray[np.float64], samples: int = 1000, seed: int = 0) -> list[Interval]:
    """One interval a column of `values` (n, m); all columns see the same resamples of rows."""
    values = np.asarray(values, dtype=np.float64)
    return _intervals(_resampled_means(values, samples, np.random.default_rng(seed)), values.mean(axis=0))


def mean_gaps(a: NDArray[np.float64], b: NDArray[np.float64], samples: int = 1000, seed: int = 0) -> list[Interval]:
    """Mean of a column of `a` (n, m) less that of `b` (k, m), a column each: two samples, resampled apart."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    rng = np.random.default_rng(seed)
    gaps = _resampled_means(a, samples, rng) - _resampled_means(b, samples, rng)
    return _intervals(gaps, a.mean(axis=0) - b.mean(axis=0))


def crossed_interval(values: NDArray[np.float64], samples: int = 1000, seed: int = 0) -> Interval:
    """Mean of `values` (n, m) and its interval, where rows and columns both are draws: n products, say, in m fits.

    Rows and columns are resampled apart, so that the bounds are for other products *and* other fits. With one column
    it is the interval of its rows.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means, columns = _resampled_means(values, samples, rng), values.shape[1]
    drawn = rng.integers(0, columns, size=(samples, columns))
    return _intervals(np.take_along_axis(means, drawn, axis=1).mean(1, keepdims=True), values.mean(keepdims=True)[0])[0]


def _resampled_means(values: NDArray[np.float64], samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Column means (samples, m) of as many resamples of the rows of `values` (n, m)."""
    n, m = values.shape
    if n == 0 or not np.isfinite(values).all():
        raise ValueError(f"a bootstrap needs finite values, at least one; {n} rows were given")
    means = np.empty((samples, m))
    block = max(1, _BLOCK // n)
    for start in range(0, samples, block):
        stop = min(start + block, samples)
        rows = rng.integers(0, n, size=(stop - start, n))
        # Resampling is a matrix of counts: one product serves every column.
        offsets = np.arange(stop - start)[:, None] * n
        counts = np.bincount((rows + offsets).ravel(), minlength=(stop - start) * n).reshape(-1, n)
        means[start:stop] = counts @ values / n
    return means


def _intervals(drawn: NDArray[np.float64], mean: NDArray[np.float64]) -> list[Interval]:
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [Interval(float(a), float(b), float(c)) for a, b, c in zip(mean, low, high, strict=True)]


def paired_difference_interval(a: ArrayLike, b: ArrayLike, samples: int = 1000, seed: int = 0) -> Interval:
    """Mean of `a - b` over the same queries, with its 95 % interval; it excludes 0 where the two really differ."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} values: a paired difference needs the same queries")
    return mean_interval(a - b, samples, seed)
