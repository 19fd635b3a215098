"""The memory curve of the benchmark tells warming up from leaking."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from serving_memory import MemoryCurve


def curve(megabytes: list[float], changes: tuple[float, ...] = ()) -> MemoryCurve:
    """A sample a second."""
    found = MemoryCurve(changes=list(changes))
    for second, value in enumerate(megabytes):
        found.add(second, value)
    return found


def test_a_rise_while_the_load_begins_is_no_slope() -> None:
    found = curve([500.0 + 10 * min(second, 10) for second in range(101)]).summary()
    assert (found["start_mb"], found["warm_mb"], found["end_mb"], found["peak_mb"]) == (500, 600, 600, 600)
    assert found["slope_mb_a_minute"] == pytest.approx(0, abs=1e-6)


def test_a_leak_is_told_by_the_minute() -> None:
    found = curve([500.0 + 0.25 * second for second in range(121)]).summary()
    assert found["slope_mb_a_minute"] == pytest.approx(15)
    assert found["end_mb"] - found["warm_mb"] == pytest.approx(0.25 * (120 - 24), abs=2)


def test_every_change_of_the_bundle_tells_what_the_one_before_it_left() -> None:
    steps = [500.0 + 20 * (second // 20) for second in range(100)]
    assert curve(steps, (19.5, 39.5, 59.5)).summary()["before_changes_mb"] == [500, 520, 540]
