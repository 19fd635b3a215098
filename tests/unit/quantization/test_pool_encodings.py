"""Encoding reports of several seeds are pooled cell by cell, by kind of pair too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from pool_encodings import KINDS, pooled_kinds, read


def seed(kinds, vrq, other, lead):
    rows = [
        row
        for kind in kinds
        for row in ([kind, 9, "vrq", vrq, "", vrq, ""], [kind, 9, "opq", other, lead, other, lead])
    ]
    return {KINDS: {"rows": rows}}


def test_kinds_are_pooled_with_their_intervals_and_vrqs_lead():
    one = seed(["a", "b"], "80.0 [77.0, 82.0]", "70.0 [66.0, 73.0]", "10.0 [7.0, 14.0] *")
    two = seed(["b", "a"], "84.0 [80.0, 86.0]", "83.0 [80.0, 87.0]", "-4.0 [-8.0, -1.0] *")
    found = pooled_kinds([one, two])
    assert list(found) == ["a", "b"]
    assert found["a"] == found["b"]
    assert set(found["a"]["vrq"]) == {"of it"}
    first, second = found["a"]["vrq"]["of it"]
    assert first == second == "82.0 [79.5, 83.4]"  # 3-4-5 below; above the root of 8, halved
    assert found["a"]["opq"]["of it"][0] == "76.5 [74.0, 79.0]"
    assert found["a"]["opq"]["vrq less it"][0] == "3.0 [0.5, 5.5] *"


def test_a_cell_without_an_interval_is_refused():
    with pytest.raises(ValueError, match="no mean with its interval"):
        read("81.0")
